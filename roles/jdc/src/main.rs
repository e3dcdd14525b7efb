//! `adit-jdc`.

fn main() -> std::process::ExitCode {
    adit_jdc::program()
}
