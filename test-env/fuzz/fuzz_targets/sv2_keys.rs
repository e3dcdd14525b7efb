//! Texts of keys and URLs: what is read is shown as something that reads the same.
#![no_main]

use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey, Sv2Url};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(x_only) = data.first_chunk::<32>()
        && let Ok(key) = AuthorityPublicKey::from_bytes(*x_only)
    {
        assert_eq!(key.to_string().parse(), Ok(key));
        let url = format!("stratum2+tcp://{}/{key}", String::from_utf8_lossy(&data[32..]));
        if let Ok(url) = url.parse::<Sv2Url>() {
            assert_eq!(url.require_authority(), Ok(key));
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = text.parse::<AuthorityPublicKey>() {
        assert_eq!(key.to_string(), text);
        assert!(text.parse::<AuthoritySecretKey>().is_err(), "one text, two keys");
    }
    if let Ok(key) = text.parse::<AuthoritySecretKey>() {
        let again: AuthoritySecretKey = key.to_text().parse().expect("our own text");
        assert_eq!(again.public(), key.public());
    }
    if let Ok(url) = text.parse::<Sv2Url>() {
        assert_eq!(url.to_string().parse(), Ok(url.clone()));
        assert!(url.port != 0 && !url.host.is_empty() && url.host_port().contains(':'));
    }
});
