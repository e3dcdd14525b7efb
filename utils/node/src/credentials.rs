//! The `Authorization` header, and when to read it anew.

use std::{
    fs, io,
    path::Path,
    sync::{Mutex, PoisonError},
};

use hyper::header::HeaderValue;

use crate::{Auth, NodeError};

/// The header last read. A cookie changes at each start of the node.
pub(crate) struct Credentials {
    auth: Auth,
    header: Mutex<Option<HeaderValue>>,
}

impl Credentials {
    pub(crate) fn new(auth: Auth) -> Self {
        Self { auth, header: Mutex::new(None) }
    }

    /// The header last read, for a connection that it was good for.
    pub(crate) fn current(&self) -> Result<HeaderValue, NodeError> {
        if let Some(header) = &*self.lock() {
            return Ok(header.clone());
        }
        self.read()
    }

    /// Names what was refused, without the secret.
    pub(crate) fn refusal(&self) -> NodeError {
        NodeError::Credentials(match &self.auth {
            Auth::Cookie(path) => format!("the node refuses the cookie in {}", path.display()),
            Auth::UserPass { user, .. } | Auth::UserPasswordFile { user, .. } => {
                format!("the node refuses user '{user}' or its password")
            }
        })
    }

    /// The header for a new connection, or after a refusal.
    pub(crate) fn read(&self) -> Result<HeaderValue, NodeError> {
        // A file of one line, read for a new connection only: not worth a thread of its own.
        let pair = match &self.auth {
            Auth::Cookie(path) => first_line(path, "cookie_file")?,
            Auth::UserPass { user, password } => format!("{user}:{password}"),
            Auth::UserPasswordFile { user, password_file } => {
                format!("{user}:{}", first_line(password_file, "password_file")?)
            }
        };
        let mut header = HeaderValue::try_from(format!("Basic {}", base64(pair.as_bytes())))
            .expect("base64 is made of visible ASCII");
        header.set_sensitive(true);
        *self.lock() = Some(header.clone());
        Ok(header)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn first_line(path: &Path, key: &str) -> Result<String, NodeError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().next().unwrap_or_default().to_owned()),
        Err(e) => {
            let hint = if e.kind() == io::ErrorKind::NotFound && key == "cookie_file" {
                " (a node writes it at its start and removes it at its end)"
            } else {
                ""
            };
            Err(NodeError::Credentials(format!("cannot read {key} {}: {e}{hint}", path.display())))
        }
    }
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = (word >> (18 - 6 * i)) as usize & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}\u{fe}?>", "w7/Dvj8+"),
        ] {
            assert_eq!(super::base64(plain.as_bytes()), coded, "{plain:?}");
        }
    }
}
