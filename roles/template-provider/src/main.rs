//! The program; see the library.

fn main() -> std::process::ExitCode {
    adit_service::main::<adit_template_provider::TemplateProviderRole>()
}
