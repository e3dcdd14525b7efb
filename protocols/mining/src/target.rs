//! Targets, difficulty and expected work.

use std::fmt;

use crate::header::BlockHash;

/// The largest hash that still counts, as a 256-bit number.
///
/// Kept as four limbs, most significant first, so that the derived order is the numeric one and a
/// comparison is usually decided by the first limb. On the wire (`U256`) it is little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target([u64; 4]);

impl Target {
    /// 2^256 - 1: every hash meets it.
    pub const MAX: Self = Self([u64::MAX; 4]);
    /// The smallest target a conversion yields: practically no hash meets it.
    pub const MIN: Self = Self([0, 0, 0, 1]);
    /// Difficulty 1 as pools count it ("pdiff"): `0x00000000ffff` followed by zeroes.
    pub const DIFFICULTY_1: Self = Self([0x0000_0000_ffff_0000, 0, 0, 0]);

    /// From a `U256` field.
    pub const fn from_le_bytes(bytes: [u8; 32]) -> Self {
        let mut limbs = [0u64; 4];
        let mut i = 0;
        while i < 32 {
            limbs[3 - i / 8] |= (bytes[i] as u64) << (8 * (i % 8));
            i += 1;
        }
        Self(limbs)
    }

    /// For a `U256` field.
    pub fn to_le_bytes(self) -> [u8; 32] {
        let mut bytes = self.to_be_bytes();
        bytes.reverse();
        bytes
    }

    /// From the order in which targets are printed.
    pub fn from_be_bytes(mut bytes: [u8; 32]) -> Self {
        bytes.reverse();
        Self::from_le_bytes(bytes)
    }

    /// In the order in which targets are printed.
    pub fn to_be_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    /// From the compact form of a block header (`nBits`); `None` if it is negative, zero or does
    /// not fit in 256 bits.
    pub fn from_nbits(nbits: u32) -> Option<Self> {
        let mantissa = nbits & 0x007f_ffff;
        let exponent = (nbits >> 24) as usize;
        if nbits & 0x0080_0000 != 0 || mantissa == 0 {
            return None;
        }
        let mut bytes = [0u8; 32];
        // The mantissa's three bytes end at byte `exponent - 1`, little-endian.
        for (i, byte) in mantissa.to_le_bytes().into_iter().take(3).enumerate() {
            match (exponent + i).checked_sub(3) {
                Some(at) if at < 32 => bytes[at] = byte,
                Some(_) if byte != 0 => return None,
                _ => {}
            }
        }
        let target = Self::from_le_bytes(bytes);
        (target.0 != [0; 4]).then_some(target)
    }

    /// The compact form of this target, rounded down as Bitcoin does.
    pub fn to_nbits(self) -> u32 {
        let bytes = self.to_le_bytes();
        let mut size = 32 - bytes.iter().rev().take_while(|b| **b == 0).count();
        let at = |i: usize| i.checked_sub(1).map_or(0, |i| u32::from(bytes[i]));
        let mut mantissa = match size {
            0 => return 0,
            1 => at(1) << 16,
            2 => at(2) << 16 | at(1) << 8,
            _ => at(size) << 16 | at(size - 1) << 8 | at(size - 2),
        };
        if mantissa & 0x0080_0000 != 0 {
            mantissa >>= 8; // bit 23 is a sign
            size += 1;
        }
        (size as u32) << 24 | mantissa
    }

    /// `DIFFICULTY_1 / difficulty`, rounded down, exact to the last bit of the `f64`, within
    /// [`MIN`](Self::MIN) and [`MAX`](Self::MAX). What is not above zero gives `MAX`.
    pub fn from_difficulty(difficulty: f64) -> Self {
        divide_shifted(0xffff, 208, difficulty).max(Self::MIN)
    }

    /// The target which takes this many hashes on average, within [`MIN`](Self::MIN) and
    /// [`MAX`](Self::MAX).
    pub fn from_expected_hashes(hashes: f64) -> Self {
        if hashes.is_nan() || hashes <= 1.0 {
            return Self::MAX;
        }
        divide_shifted(1, 256, hashes).minus_one().max(Self::MIN)
    }

    /// The target at which `hash_rate` (hashes per second) finds `shares_per_minute`.
    pub fn from_hash_rate(hash_rate: f64, shares_per_minute: f64) -> Self {
        Self::from_expected_hashes(hash_rate * 60.0 / shares_per_minute)
    }

    /// `DIFFICULTY_1 / self`; infinite for a target of zero.
    pub fn difficulty(self) -> f64 {
        Self::DIFFICULTY_1.to_f64() / self.to_f64()
    }

    /// Hashes needed on average to meet this target: 2^256 / (target + 1), rounded down,
    /// `u128::MAX` where it does not fit. About 0.5 us: keep it beside the target.
    pub fn expected_hashes(self) -> u128 {
        let Some(divisor) = self.plus_one() else { return 1 };
        if divisor.0[0] == 0 && divisor.0[1] == 0 || divisor.0 == [0, 1, 0, 0] {
            return u128::MAX;
        }
        // 2^256 = divisor * quotient + rest, bit by bit. The quotient is below 2^128, so the first
        // 129 bits of the dividend leave a rest of 2^128, which is below the divisor.
        let mut quotient = 0u128;
        let mut rest = [0, 1, 0, 0];
        for _ in 0..128 {
            let carry = rest[0] >> 63;
            rest = shift_left(rest);
            quotient <<= 1;
            if carry == 1 || rest >= divisor.0 {
                rest = subtract(rest, divisor.0);
                quotient |= 1;
            }
        }
        quotient
    }

    /// Whether a hash is at or below this target.
    #[inline]
    pub fn is_met_by(&self, hash: &BlockHash) -> bool {
        Self::from_le_bytes(hash.0) <= *self
    }

    /// The nearest `f64`.
    pub fn to_f64(self) -> f64 {
        let two_64 = 18_446_744_073_709_551_616.0_f64;
        self.0.iter().fold(0.0, |sum, limb| sum * two_64 + *limb as f64)
    }

    fn plus_one(self) -> Option<Self> {
        let mut limbs = self.0;
        for limb in limbs.iter_mut().rev() {
            let (sum, carry) = limb.overflowing_add(1);
            *limb = sum;
            if !carry {
                return Some(Self(limbs));
            }
        }
        None
    }

    /// Stays at zero.
    fn minus_one(self) -> Self {
        if self.0 == [0; 4] { self } else { Self(subtract(self.0, [0, 0, 0, 1])) }
    }
}

impl fmt::Display for Target {
    /// 64 hex digits, most significant first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

/// Expected hashes as pool difficulty, where one unit is 2^32 hashes.
pub fn work_to_difficulty(work: u128) -> f64 {
    work as f64 / 4_294_967_296.0
}

/// `numerator * 2^shift / divisor`, rounded down; `MAX` where that does not fit or the divisor is
/// not above zero. The numerator has at most 16 bits.
fn divide_shifted(numerator: u64, shift: i32, divisor: f64) -> Target {
    if divisor.is_nan() || divisor <= 0.0 {
        return Target::MAX;
    }
    if divisor.is_infinite() {
        return Target([0; 4]);
    }
    let bits = divisor.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    // divisor = mantissa * 2^exponent
    let (mantissa, exponent) =
        if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
    let steps = shift - exponent;
    if steps < 0 {
        return Target([0; 4]); // the mantissa of so large a number has 53 bits, the numerator 16
    }
    let mut quotient = [0, 0, 0, numerator / mantissa];
    let mut rest = numerator % mantissa;
    for _ in 0..steps {
        if quotient[0] >> 63 == 1 {
            return Target::MAX;
        }
        quotient = shift_left(quotient);
        rest <<= 1;
        if rest >= mantissa {
            rest -= mantissa;
            quotient[3] |= 1;
        }
    }
    Target(quotient)
}

fn shift_left(n: [u64; 4]) -> [u64; 4] {
    [n[0] << 1 | n[1] >> 63, n[1] << 1 | n[2] >> 63, n[2] << 1 | n[3] >> 63, n[3] << 1]
}

/// Wraps around.
fn subtract(a: [u64; 4], b: [u64; 4]) -> [u64; 4] {
    let mut out = [0; 4];
    let mut borrow = false;
    for i in (0..4).rev() {
        let (step, under) = a[i].overflowing_sub(b[i]);
        let (step, under_again) = step.overflowing_sub(u64::from(borrow));
        out[i] = step;
        borrow = under || under_again;
    }
    out
}

#[cfg(test)]
mod tests;
