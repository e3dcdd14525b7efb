//! `adit-pool`.

fn main() -> std::process::ExitCode {
    adit_pool::program()
}
