//! Whatever comes, the engine does not panic.

use std::time::Duration;

use adit_sv2::frame::Header;
use adit_sv2::messages::{AnyMessage, MessageInfo};
use adit_transport::{Event, PeerId};
use proptest::prelude::*;

use super::sim::{open_extended, open_standard};
use crate::engine::Link;

/// A frame with the header of a known message, or any other, and a payload of small numbers, which are likely ids.
fn frame() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let known: Vec<&'static MessageInfo> = AnyMessage::all().collect();
    let header = prop_oneof![
        9 => prop::sample::select(known).prop_map(|m| (m.extension_type, m.channel_msg, m.msg_type)),
        1 => (0u16..0x8000, any::<bool>(), any::<u8>()),
    ];
    let byte = prop_oneof![3 => 0u8..4, 1 => any::<u8>()];
    (header, prop::collection::vec(byte, 0..200)).prop_map(
        |((extension_type, channel_msg, msg_type), payload)| {
            let msg_length = payload.len() as u32;
            (Header { extension_type, channel_msg, msg_type, msg_length }, payload)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_frames(frames in prop::collection::vec((0usize..5, frame()), 1..60)) {
        let (mut sim, tp) = super::custom::working("job_declaration.coinbase_only = true");
        let mut miners: Vec<PeerId> = (0..2).map(|flags| sim.miner(flags)).collect();
        miners.push(super::custom::connect(&mut sim));
        sim.send(miners[2], Link::Miner, &open_extended(1, "a"));
        sim.send(miners[0], Link::Miner, &open_extended(1, "a"));
        sim.send(miners[1], Link::Miner, &open_standard(1, "a"));
        let mut provider = tp;
        for (who, (header, payload)) in frames {
            match who {
                0..=2 => {
                    sim.event(miners[who], Link::Miner, Event::Frame(header, &payload));
                    if sim.closed(miners[who]).is_some() {
                        miners[who] = sim.miner(0);
                        sim.send(miners[who], Link::Miner, &open_extended(1, "a"));
                    }
                }
                3 => {
                    sim.event(provider, Link::TemplateProvider(0), Event::Frame(header, &payload));
                    if sim.closed(provider).is_some() {
                        provider = sim.provider(0);
                    }
                }
                _ => sim.pass(Duration::from_millis(300)),
            }
        }
        sim.store();
        // It still works.
        sim.tip(provider, 0, u64::MAX, 0xee);
        let mut rig = sim.extended("b");
        rig.mine(&mut sim, 1);
        prop_assert!(rig.listen(&mut sim).is_empty());
    }
}
