//! The program; see the library.

fn main() -> std::process::ExitCode {
    adit_jds::program()
}
