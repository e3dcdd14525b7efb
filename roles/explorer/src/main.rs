//! The explorer and dashboard.

fn main() -> std::process::ExitCode {
    adit_service::main::<adit_explorer::Explorer>()
}
