//! `AllocateMiningJobToken` (spec 6.4.2), and the tokens of accepted declarations.

use adit_job_declaration::{AccountTag, Grant, Token, TokenId};
use adit_sv2::codec::{B064K, B0255};
use adit_sv2::keys::tagged_hash;
use adit_sv2::messages::job_declaration::{AllocateMiningJobToken, AllocateMiningJobTokenSuccess};
use adit_transport::{Now, Outbox, PeerId};

use super::{Effect, Jds};

/// A request that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenRequest {
    request_id: u32,
    account: AccountTag,
}

impl Jds {
    pub(super) fn on_allocate(
        &mut self,
        peer: PeerId,
        message: &AllocateMiningJobToken<'_>,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let account = AccountTag::of(message.user_identifier.as_bytes());
        let request = TokenRequest { request_id: message.request_id, account };
        let Some(client) = self.clients.get_mut(&peer) else { return };
        if client.token_requests.is_empty() && client.tokens.take(now.instant) {
            return self.allocate(peer, request, now, out);
        }
        // There is no message to refuse it with, so it comes later.
        if client.token_requests.len() < MAX_TOKEN_REQUESTS {
            client.token_requests.push_back(request);
            return self.metrics.token("delayed");
        }
        self.metrics.token("refused");
        self.close(peer, "too many requests for tokens", out);
    }

    pub(super) fn hand_out_delayed_tokens(&mut self, now: Now, out: &mut Outbox<Effect>) {
        let mut due = Vec::new();
        for (peer, client) in &mut self.clients {
            while !client.token_requests.is_empty() && client.tokens.take(now.instant) {
                due.extend(client.token_requests.pop_front().map(|request| (*peer, request)));
            }
        }
        for (peer, request) in due {
            self.allocate(peer, request, now, out);
        }
    }

    fn allocate(
        &mut self,
        peer: PeerId,
        request: TokenRequest,
        now: Now,
        out: &mut Outbox<Effect>,
    ) {
        let TokenRequest { request_id, account } = request;
        let token = self.token(account, Grant::Allocated { outputs: self.outputs_hash }, now);
        // Neither fails: a token has at most 158 bytes, and the configuration bounds the output.
        let (Ok(mining_job_token), Ok(coinbase_tx_outputs)) =
            (B0255::new(&token), B064K::new(&self.outputs))
        else {
            return;
        };
        out.send(
            peer,
            &AllocateMiningJobTokenSuccess { request_id, mining_job_token, coinbase_tx_outputs },
        );
        self.metrics.token("allocated");
    }

    /// A new signed token.
    pub(super) fn token(&mut self, account: AccountTag, grant: Grant, now: Now) -> Vec<u8> {
        self.tokens_made += 1;
        let entropy = tagged_hash(
            "adit/token-entropy",
            &[&self.settings.seed, &self.tokens_made.to_le_bytes()],
        );
        let mut id = [0; 8];
        id.copy_from_slice(&tagged_hash("adit/token-id", &[&entropy])[..8]);
        let expiry = now.unix_secs().saturating_add(self.settings.token_lifetime);
        Token { expiry, id: TokenId(id), account, grant }.sign(&self.settings.key, &entropy)
    }
}

/// `coinbase_tx_outputs`: the pool's payout output, of no amount yet (spec 6.4.3).
pub(super) fn pool_outputs(script: &[u8]) -> Vec<u8> {
    let output = bitcoin::TxOut {
        value: bitcoin::Amount::ZERO,
        script_pubkey: bitcoin::ScriptBuf::from_bytes(script.to_vec()),
    };
    bitcoin::consensus::serialize(&vec![output])
}

/// Requests of one client that wait for their turn; who sends more is sent away.
const MAX_TOKEN_REQUESTS: usize = 32;
