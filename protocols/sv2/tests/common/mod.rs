//! Random payloads of any message, made from its row in the message table alone.

use adit_sv2::frame::Header;
use adit_sv2::messages::MessageInfo;

/// A small deterministic generator (splitmix64): a failing case is named by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, count: usize, out: &mut Vec<u8>) {
        out.extend((0..count).map(|_| self.next() as u8));
    }

    /// Mostly short, now and then the largest that the type carries.
    fn length(&mut self, limit: usize) -> usize {
        match self.below(20) {
            0 => limit.min(70_000),
            1 => 0,
            _ => self.below(limit.min(40) + 1),
        }
    }
}

/// Appends a random value of a declared field type. `text` makes strings valid UTF-8.
fn value(wire_type: &str, random: &mut Random, out: &mut Vec<u8>) {
    let wire_type: String = wire_type.chars().filter(|c| !c.is_whitespace()).collect();
    let counted = |out: &mut Vec<u8>, count: usize, prefix: usize| {
        out.extend_from_slice(&(count as u32).to_le_bytes()[..prefix]);
    };
    match wire_type.as_str() {
        "u8" => random.bytes(1, out),
        "u16" => random.bytes(2, out),
        "u32" => random.bytes(4, out),
        "u64" => random.bytes(8, out),
        "f32" => out.extend_from_slice(&(random.below(1 << 30) as f32).to_le_bytes()),
        "bool" => out.push(random.below(2) as u8),
        "[u8;32]" => random.bytes(32, out),
        "Option<u32>" => {
            let some = random.below(2);
            out.push(some as u8);
            random.bytes(4 * some, out);
        }
        "Str0255<'a>" => {
            let length = random.length(255);
            out.push(length as u8);
            out.extend((0..length).map(|_| b' ' + random.below(95) as u8));
        }
        "B032<'a>" | "B0255<'a>" | "B064K<'a>" | "B016M<'a>" => {
            let (limit, prefix) = match wire_type.as_str() {
                "B032<'a>" => (32, 1),
                "B0255<'a>" => (255, 1),
                "B064K<'a>" => (0xffff, 2),
                _ => (0xff_ffff, 3),
            };
            let length = random.length(limit);
            counted(out, length, prefix);
            random.bytes(length, out);
        }
        sequence => {
            let (prefix, limit, element) = if let Some(rest) = sequence.strip_prefix("Seq0255<'a,")
            {
                (1, 255, rest)
            } else if let Some(rest) = sequence.strip_prefix("Seq064K<'a,") {
                (2, 300, rest)
            } else {
                panic!("no generator for {sequence}");
            };
            let element = element.strip_suffix('>').expect("a generic type ends so");
            let count = random.length(limit);
            counted(out, count, prefix);
            (0..count).for_each(|_| value(element, random, out));
        }
    }
}

/// A random valid payload of the message, and its header.
pub fn frame(info: &MessageInfo, random: &mut Random) -> (Header, Vec<u8>) {
    let mut payload = Vec::new();
    info.fields.iter().for_each(|(_, wire_type)| value(wire_type, random, &mut payload));
    let header = Header {
        extension_type: info.extension_type,
        channel_msg: info.channel_msg,
        msg_type: info.msg_type,
        msg_length: payload.len() as u32,
    };
    (header, payload)
}
