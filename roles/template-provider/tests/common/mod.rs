//! What the tests of the running role share.

mod client;
mod fake_node;

use std::path::Path;
use std::time::Duration;

use adit_service::{Handle, parse_config};
use adit_sv2::keys::{AuthorityPublicKey, AuthoritySecretKey};
use adit_template_provider::TemplateProviderRole;

pub use client::{Client, Said};
pub use fake_node::{FakeNode, USER};

/// No step of a test takes longer, on however slow a machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A running template provider whose data is in a folder of the test's.
pub struct Provider {
    handle: Handle,
    key: AuthorityPublicKey,
}

impl Provider {
    pub async fn start(dir: &Path, nodes: &[&FakeNode]) -> Self {
        Self::start_with(dir, nodes, "").await
    }

    /// Starts with more lines of configuration.
    pub async fn start_with(dir: &Path, nodes: &[&FakeNode], more: &str) -> Self {
        let secret = AuthoritySecretKey::from_entropy([7; 32]).unwrap();
        let (user, password) = USER.split_once(':').unwrap();
        let nodes: String = nodes
            .iter()
            .map(|node| {
                format!(
                    "[[node]]\nurl = \"{}\"\nuser = \"{user}\"\npassword = \"{password}\"\n",
                    node.url()
                )
            })
            .collect();
        let config = format!(
            "network = \"regtest\"\ndata_dir = \"data\"\n{nodes}\
             [listen]\naddress = \"127.0.0.1:0\"\n[authority]\nsecret_key = \"{}\"\n\
             [templates]\nfee_interval_seconds = 1\nfee_threshold_sats = 500\n{more}",
            *secret.to_text()
        );
        let config = parse_config(&config, dir).unwrap();
        let handle = adit_service::start::<TemplateProviderRole>(config).await.unwrap();
        Self { handle, key: secret.public() }
    }

    pub async fn ready(&self) {
        tokio::time::timeout(DEADLINE, self.handle.ready()).await.expect("ready in time").unwrap();
    }

    /// Waits until the role says that it is not ready for this reason.
    pub async fn waiting_for(&self, reason: &str) {
        eventually(reason, || {
            let waiting = self.handle.context().readiness.waiting();
            waiting.iter().any(|waiting| waiting.reason.contains(reason))
        })
        .await;
    }

    pub async fn client(&self, size: u32) -> Client {
        let addr = self.handle.listener("clients").await.unwrap();
        Client::connect(addr, self.key, size).await
    }

    pub fn metrics(&self) -> String {
        self.handle.context().metrics.encode().unwrap()
    }

    /// Waits until it has failed by itself, and says why.
    pub async fn ended(self) -> String {
        let ended =
            tokio::time::timeout(DEADLINE, self.handle.wait()).await.expect("it ends in time");
        format!("{:#}", ended.expect_err("it fails"))
    }

    pub async fn stop(self) {
        self.handle.shutdown();
        self.handle.wait().await.unwrap();
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
