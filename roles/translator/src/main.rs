//! `adit-translator`.

fn main() -> std::process::ExitCode {
    adit_translator::program()
}
