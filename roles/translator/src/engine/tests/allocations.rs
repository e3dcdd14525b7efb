//! The way of a share allocates nothing, however its firmware writes it.

use adit_sv2::messages::mining::SubmitSharesSuccess;
use allocation_counter::measure;

use super::*;

/// Shares before allocations are counted: buffers have grown, and so has the memory for duplicates.
const WARM: usize = 300;
const COUNTED: usize = 100;

/// How firmware writes extranonce2, time and nonce.
type Way = fn(&str, u32, u32) -> [String; 3];

#[test]
fn a_share_allocates_nothing() {
    let whole = |e: &str, t: u32, n: u32| [e.to_owned(), format!("{t:08x}"), format!("{n:08x}")];
    // NerdMiner: blanks for zeros, and zeros left out.
    let repaired =
        |e: &str, t: u32, n: u32| [format!(" {}", &e[1..]), format!(" {t:x}"), format!("{n:x}")];
    let ways: [Way; 2] = [whole, repaired];
    for (mode, way) in MODES.into_iter().flat_map(|mode| ways.map(|way| (mode, way))) {
        let mut net = Net::in_mode(mode, "", "vardiff = false\n");
        net.connect();
        net.subscribe(MINER, "NerdMinerV2");
        net.authorize(MINER, "x");
        net.open(7, &[1, 2, 3, 4], 12);
        net.work(7, 1, 0x11);
        let job = Notified::last(&net.told(MINER));
        let extranonce1 = net.engine.miners[&MINER].extranonce1.unwrap();
        let shares = (0..0x0fff_ffff)
            .map(|n| Found::new(&job, &extranonce1, &[7; 8], NTIME, n, job.version))
            .filter(|share| meets(&share.hash, &EASY))
            .take(WARM + COUNTED);
        let lines: Vec<_> = shares
            .map(|share| {
                let [e, t, n] = way("0707070707070707", share.ntime, share.nonce);
                let id = share.job_id;
                format!(
                    r#"{{"id":4,"method":"mining.submit","params":["w","{id}","{e}","{t}","{n}"]}}"#
                )
            })
            .collect();
        let mut success = Vec::new();
        let mut answered = 0;
        for (place, line) in lines.iter().enumerate() {
            let sequence_number = place as u32;
            success.clear();
            encode_frame(
                &SubmitSharesSuccess {
                    channel_id: 7,
                    last_sequence_number: sequence_number,
                    new_submits_accepted_count: 1,
                    new_shares_sum: 1,
                },
                &mut success,
            );
            let (header, payload) = success.split_first_chunk().unwrap();
            let header = Header::parse(header);
            let (upstream, link) = (net.upstream, Link::Upstream(net.dials[&net.upstream]));
            let counted = measure(|| {
                let event = Event::Line(line.as_bytes());
                net.engine.handle(MINER, Link::Miner(0), event, net.now, &mut net.out);
                net.out.deliver(|delivery| match delivery {
                    Delivery::Bytes(MINER, bytes) => {
                        assert_eq!(bytes.strip_suffix(b"\n"), Some(ACCEPTED.as_bytes()));
                        answered += 1;
                    }
                    Delivery::Bytes(..) => {}
                    Delivery::Close(..) => panic!("closed"),
                });
                let event = Event::Frame(header, payload);
                net.engine.handle(upstream, link, event, net.now, &mut net.out);
            });
            if place >= WARM {
                assert_eq!(counted.count_total, 0, "{mode:?}: {counted:?} for {line}");
            }
        }
        assert_eq!(answered, WARM + COUNTED);
        let miner = &net.engine.miners[&MINER].stats;
        assert_eq!(miner.upstream_accepted as usize, WARM + COUNTED);
    }
}
