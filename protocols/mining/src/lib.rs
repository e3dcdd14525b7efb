//! What Stratum V2 mining means: jobs, targets, extranonce space, share check, channels.
//!
//! No sockets, no clock, no random numbers: messages, time and hashes are arguments. Roles drive
//! these types; nothing here knows a connection.
//!
//! | To | use |
//! | --- | --- |
//! | follow a template provider | [`TemplateTracker`] → [`TemplateEvent`], [`Work`] (a [`Template`] with its [`Tip`]) |
//! | choose among several template providers | [`TemplateProviders`]: messages, losses and time in, the [`Work`] in force out |
//! | turn a template into jobs | [`JobFactory`] (tag, [`Payouts`]), [`JobIds`], [`JobSet`] → `Arc<`[`Job`]`>` |
//! | send jobs | [`Channels`]: one message per group; or [`ServerChannel::start_work`], [`ServerChannel::write_job`], [`Job::write_frame`], [`Tip::set_new_prev_hash`] |
//! | give out extranonces | [`ExtranonceAllocator`] → [`Extranonce`] |
//! | be the server of a channel | [`ServerChannel`]: jobs in, [`ServerChannel::check_share`], acknowledgements, [`Solution`] |
//! | be the server of a connection | [`Channels`]: ids, groups, work for all of them |
//! | let clients choose the block | [`CustomJob`], [`JobFactory::custom_job`], [`ServerChannel::add_custom_job`], [`Portion`] |
//! | be the client of a channel | [`ClientChannel`]: messages in, [`ClientChannel::active`], [`ClientChannel::check_share`] |
//! | be the client of a connection | [`ClientChannels`]: messages to channels and groups in, [`Change`]s out |
//! | choose share targets | [`Vardiff`]: shares and time in, targets out |
//! | hash | [`Job::merkle_root`], [`Job::header`], [`Header::hash`], [`NonceScan`], [`sha256d`] |
//! | count difficulty | [`Target`]; work is expected hashes (`u128`), one unit of difficulty is 2^32 of them |
//!
//! # A server's day
//!
//! One [`JobSet`] per template, shared by all channels; the channels of each connection are in one
//! [`Channels`]. When the tracker says [`Future`](TemplateEvent::Future), every connection gets the
//! job by [`future_job`](Channels::future_job). At [`NewTip`](TemplateEvent::NewTip) each gets
//! [`activate`](Channels::activate), the small message to everyone first, and then those where that
//! was not all get [`new_tip`](Channels::new_tip). [`Newer`](TemplateEvent::Newer) is
//! [`active_job`](Channels::active_job). A new channel gets the job of [`TemplateTracker::work`] as
//! a future one and its tip at once after: [`start_work`](ServerChannel::start_work).
//!
//! A target counts for jobs that become active after it ([spec 5.3.21]). To make it count now,
//! follow `SetTarget` with [`renew_job`](ServerChannel::renew_job): the same job under a new id and
//! from a later nTime on. Duplicates are told across both.
//!
//! # Hot path
//!
//! [`ServerChannel::check_share`], [`credit`](ServerChannel::credit) and
//! [`ClientChannel::check_share`] neither allocate nor format in the steady state, nor do
//! [`Vardiff::on_share`] and [`Vardiff::poll`].
//!
//! [spec 5.3.21]: https://github.com/stratum-mining/sv2-spec/blob/main/05-Mining-Protocol.md#5321-settarget-server---client

pub mod channel;
pub mod coinbase;
pub mod custom;
pub mod extranonce;
pub mod header;
pub mod job;
pub mod merkle;
pub mod providers;
mod sha256;
pub mod share;
pub mod target;
pub mod template;
#[cfg(test)]
mod testing;
pub mod vardiff;

pub use channel::{
    Acceptance, ActiveWork, Change, ChannelKind, ChannelOptions, Channels, ClientChannel,
    ClientChannels, ClientError, Grouping, JobNews, JobTableError, ServerChannel, Solution,
};
pub use coinbase::{Coinbase, CoinbaseError, Payouts};
pub use custom::{CustomJob, Portion};
pub use extranonce::{Extranonce, ExtranonceAllocator};
pub use header::{BlockHash, Header, NonceScan};
pub use job::{Job, JobError, JobFactory, JobIds, JobParts, JobSet};
pub use providers::TemplateProviders;
pub use sha256::sha256d;
pub use share::{AcceptedShare, RejectedShare, Share, ShareError};
pub use target::Target;
pub use template::{Template, TemplateEvent, TemplateTracker, Tip, Work};
pub use vardiff::{TargetLimits, Vardiff, VardiffOptions};
