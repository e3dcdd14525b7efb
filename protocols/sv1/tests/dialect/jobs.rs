//! Jobs and difficulties.

use adit_sv1::server::write::{self, HIGHEST_DIFFICULTY, LOWEST_DIFFICULTY, Notify};

use super::written;

#[test]
fn notify_words_are_swapped_and_numbers_padded() {
    let prev_hash: [u8; 32] = std::array::from_fn(|place| place as u8);
    let job = Notify {
        job_id: "5c04000000000001",
        prev_hash: &prev_hash,
        coinb1: &[0x01, 0x00],
        extranonce_prefix: &[0xAA, 0xBB],
        extranonce_suffix: &[0xCC],
        coinb2: &[0xff],
        merkle_path: &[[0x11; 32], [0x22; 32]],
        version: 0x2000_0000,
        nbits: 0x0703_a30c,
        ntime: 0x0000_beef,
        clean_jobs: true,
    };
    let expected = [
        r#"{"id":null,"method":"mining.notify","params":["5c04000000000001","#,
        r#""03020100070605040b0a09080f0e0d0c13121110171615141b1a19181f1e1d1c","#,
        r#""0100aabb","ccff",["#,
        r#""1111111111111111111111111111111111111111111111111111111111111111","#,
        r#""2222222222222222222222222222222222222222222222222222222222222222"],"#,
        r#""20000000","0703a30c","0000beef",true]}"#,
    ];
    assert_eq!(written(|out| write::notify(out, &job)), expected.concat());
    let bare = Notify {
        merkle_path: &[],
        extranonce_prefix: &[],
        extranonce_suffix: &[],
        clean_jobs: false,
        ..job
    };
    let line = written(|out| write::notify(out, &bare));
    assert!(line.contains(r#""0100","ff",[],"20000000""#) && line.ends_with(",false]}"), "{line}");
}

#[test]
fn difficulties_from_one_upwards_are_whole_and_never_rounded_up() {
    // Old ESP-Miner and others misread fractions (OCEAN sent 16383.75).
    for (asked, said) in [
        (16383.75, "16383"),
        (1.0, "1"),
        (1.999, "1"),
        (2887.0, "2887"),
        (4294967296.5, "4294967296"),
        (1e21, "1000000000000000000000"),
        (0.5, "0.5"),
        (0.00015, "0.00015"),
        (0.9999, "0.9999"),
    ] {
        let mut announced = f64::NAN;
        let line = written(|out| announced = write::set_difficulty(out, asked));
        assert_eq!(
            line,
            format!(r#"{{"id":null,"method":"mining.set_difficulty","params":[{said}]}}"#)
        );
        assert!(announced <= asked);
        assert_eq!(said.parse::<f64>().unwrap(), announced);
    }
}

#[test]
fn difficulties_that_are_none_are_the_lowest() {
    for asked in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, 1e-300] {
        assert_eq!(write::announced_difficulty(asked), LOWEST_DIFFICULTY);
        written(|out| assert_eq!(write::set_difficulty(out, asked), LOWEST_DIFFICULTY));
    }
    written(|out| assert_eq!(write::set_difficulty(out, f64::INFINITY), HIGHEST_DIFFICULTY));
}

#[test]
fn a_notify_fits_the_smallest_device_when_its_coinbase_does() {
    // ckpool drops lines above 1024 bytes, NerdMiner reads documents of 4 KiB: nothing is spent on form.
    let job = Notify {
        job_id: "1",
        prev_hash: &[0; 32],
        coinb1: &[0; 60],
        extranonce_prefix: &[],
        extranonce_suffix: &[],
        coinb2: &[0; 90],
        merkle_path: &[[0; 32]; 5],
        version: 0,
        nbits: 0,
        ntime: 0,
        clean_jobs: true,
    };
    let line = written(|out| write::notify(out, &job));
    assert!(line.len() < 1024, "{}", line.len());
}

#[test]
fn writers_need_no_memory_of_their_own() {
    let job = Notify {
        job_id: "1",
        prev_hash: &[0; 32],
        coinb1: &[0; 60],
        extranonce_prefix: &[1; 8],
        extranonce_suffix: &[],
        coinb2: &[0; 90],
        merkle_path: &[[0; 32]; 12],
        version: 0,
        nbits: 0,
        ntime: 0,
        clean_jobs: true,
    };
    let mut out = Vec::with_capacity(2048);
    let before = out.capacity();
    write::notify(&mut out, &job);
    write::set_difficulty(&mut out, 1024.0);
    write::result_bool(&mut out, super::id("4"), true);
    assert_eq!(out.capacity(), before);
}
