//! The program; see the library.

fn main() -> std::process::ExitCode {
    adit_template_provider::program()
}
