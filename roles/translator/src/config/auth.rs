//! `[auth]`: who may mine.

use std::collections::BTreeMap;

use adit_service::ConfigError;
use serde::Deserialize;

use super::wrong;

/// Who may mine.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// Everybody, whatever the password: what the upstream pays is the operator's in any case.
    #[default]
    Open,
    /// Users that are configured, with their passwords.
    Local,
}

/// `[auth]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Who may mine on listeners that do not say.
    pub mode: AuthMode,
    /// For `local`: names and what `hash-password` printed. A name stands for itself and for all its workers
    /// (`name.anything`).
    pub users: BTreeMap<String, String>,
}

pub(super) fn check(auth: &Auth, needed: bool) -> Result<(), ConfigError> {
    if needed && auth.users.is_empty() {
        return wrong("auth.users", "required by the mode `local`: at least one user");
    }
    for (name, hash) in &auth.users {
        if name.is_empty() || name.len() > super::MAX_USER || name.contains(char::is_control) {
            let message =
                format!("{name:?}: must have 1 to {} bytes, no control character", super::MAX_USER);
            return wrong("auth.users", message);
        }
        if let Err(error) = crate::auth::check_hash(hash) {
            return wrong("auth.users", format!("{name}: {error}; `hash-password` makes one"));
        }
    }
    Ok(())
}
