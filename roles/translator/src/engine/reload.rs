//! A changed configuration, without touching miners' connections.

use adit_transport::{Now, Outbox};

use super::upstream::Stage;
use super::{Effect, Settings, TranslatorEngine};
use crate::config::Config;

impl TranslatorEngine {
    /// Takes in what [`Config::take_in`] says can be. An upstream that is not in the list any more is left, to miners as
    /// if it had been lost; other upstreams and their channels stay, and new names hold for channels to come.
    pub fn reload(&mut self, config: &Config, now: Now, out: &mut Outbox<Effect>) {
        let settings = Settings::new(config);
        self.core.settings = settings;
        // Said again below if it stays.
        let before = self.upstreams.get(self.upstream.index).config.url.host_port();
        self.core.metrics.upstream(before, false);
        let index = self.upstreams.replace(&config.upstream, self.upstream.index);
        for upstream in &config.upstream {
            self.core.metrics.upstream(upstream.url.host_port(), false);
        }
        // It was better than the one that is worked for, by the old order.
        if let Some(peer) = self.candidate.take().and_then(|candidate| candidate.stage.peer()) {
            out.close(peer, "configuration-changed");
        }
        match index {
            Some(index) => {
                self.upstream.index = index;
                let configured = self.upstreams.get(index);
                self.core.max_ntime_ahead = configured.config.max_ntime_ahead_seconds;
                if self.upstream.is_ready() {
                    self.core.room = configured.room();
                    self.core.metrics.upstream(configured.config.url.host_port(), true);
                }
            }
            None => {
                tracing::info!(upstream = %self.upstream.target, "not in the configuration any more");
                self.upstream.index = 0;
                match self.upstream.stage {
                    Stage::Ready { .. } => self.retire(now, out),
                    stage => {
                        if let Some(peer) = stage.peer() {
                            out.close(peer, "configuration-changed");
                            let target = self.upstream.target.clone();
                            self.upstream = super::Upstream::down(target, now.instant);
                        }
                    }
                }
            }
        }
        self.dial(now, out);
    }
}
