//! The command `keys`: a new authority key pair.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use adit_sv2::keys::AuthoritySecretKey;
use anyhow::{Context as _, anyhow};

/// Writes the secret key to `file`, which must not exist, and the public key to `out`; without a file both to `out`.
pub(crate) fn generate(file: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<()> {
    let secret = new_key()?;
    let (public, secret_text) = (secret.public(), secret.to_text());
    let Some(file) = file else {
        writeln!(out, "public: {public}\nsecret: {}", &*secret_text)?;
        return Ok(());
    };
    write_new(file, secret_text.as_bytes())
        .with_context(|| format!("{}: not written", file.display()))?;
    writeln!(out, "{public}")?;
    Ok(())
}

fn new_key() -> anyhow::Result<AuthoritySecretKey> {
    loop {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy)
            .map_err(|e| anyhow!("no random numbers from the system: {e}"))?;
        // All but one in 2^128 draws are keys.
        if let Ok(key) = AuthoritySecretKey::from_entropy(entropy) {
            return Ok(key);
        }
    }
}

fn write_new(file: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text)?;
    file.write_all(b"\n")?;
    file.sync_all()
}
