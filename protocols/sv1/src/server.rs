//! The pool's side of the line: what miners ask, and what they are told.

mod configure;
mod password;
mod request;
mod submit;
pub mod write;

pub use configure::{Configure, Extension, Info};
pub use password::PasswordOptions;
pub use request::{Answer, Authorize, Method, Request, Subscribe, parse_request};
pub use submit::{Extranonce2, Submit, merge_version};
