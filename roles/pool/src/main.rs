//! `adit-pool`.

fn main() -> std::process::ExitCode {
    adit_service::main::<adit_pool::Pool>()
}
