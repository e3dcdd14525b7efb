use super::*;

fn read<'a, T: Field<'a>>(input: &'a [u8]) -> Result<(T, &'a [u8]), FieldError> {
    match T::read(input) {
        Ok((rest, value)) => Ok((value, rest)),
        Err(nom::Err::Error(error)) => Err(error),
        Err(other) => panic!("only errors are returned: {other:?}"),
    }
}

fn written<'a, T: Field<'a>>(value: T) -> Vec<u8> {
    let mut out = Vec::new();
    value.write(&mut out);
    assert_eq!(out.len(), value.encoded_len());
    out
}

#[test]
fn integers_are_little_endian() {
    assert_eq!(written(0x0102_u16), [2, 1]);
    assert_eq!(written(0x0102_0304_u32), [4, 3, 2, 1]);
    assert_eq!(written(1_u64), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(written(1.0_f32), [0, 0, 0x80, 0x3f]);
    assert_eq!(read::<u32>(&[4, 3, 2, 1, 9]), Ok((0x0102_0304, &[9][..])));
    assert_eq!(read::<u64>(&[0; 7]), Err(FieldError::Truncated));
}

#[test]
fn only_the_lowest_bit_of_a_bool_counts() {
    assert_eq!(read::<bool>(&[0xfe]), Ok((false, &[][..])));
    assert_eq!(read::<bool>(&[0xff]), Ok((true, &[][..])));
    assert_eq!(written(true), [1]);
}

#[test]
fn an_option_holds_at_most_one() {
    assert_eq!(read::<Option<u32>>(&[0]), Ok((None, &[][..])));
    assert_eq!(read::<Option<u32>>(&[1, 7, 0, 0, 0]), Ok((Some(7), &[][..])));
    assert_eq!(read::<Option<u32>>(&[2]), Err(FieldError::TooLong { length: 2, limit: 1 }));
    assert_eq!(written(Some(7_u32)), [1, 7, 0, 0, 0]);
    assert_eq!(written(None::<u32>), [0]);
}

#[test]
fn byte_fields_refuse_what_their_type_cannot_carry() {
    assert!(B032::new(&[0; 33]).is_err());
    assert!(B0255::new(&[0; 256]).is_err());
    assert!(B064K::new(&[0; 0x1_0000]).is_err());
    assert!(B016M::new(&vec![0; 0x100_0000]).is_err());
    assert_eq!(
        read::<B032<'_>>(&[33; 34]).map(|_| ()),
        Err(FieldError::TooLong { length: 33, limit: 32 })
    );
    assert_eq!(written(B064K::new(b"ab").unwrap()), [2, 0, b'a', b'b']);
    assert_eq!(written(B016M::new(b"ab").unwrap()), [2, 0, 0, b'a', b'b']);
    assert_eq!(read::<B064K<'_>>(&[2, 0, 1]).map(|_| ()), Err(FieldError::Truncated));
}

#[test]
fn sequences_read_as_they_were_written() {
    let values = [1_u16, 2, 300];
    let bytes = written(Seq064K::new(&values).unwrap());
    assert_eq!(bytes, [3, 0, 1, 0, 2, 0, 44, 1]);
    let (seq, rest) = read::<Seq064K<'_, u16>>(&bytes).unwrap();
    assert_eq!((seq.len(), rest.len()), (3, 0));
    assert_eq!(seq.iter().collect::<Vec<_>>(), values);
    assert_eq!(seq, Seq064K::new(&values).unwrap());
    assert_eq!(written(seq), bytes);

    let transactions = [B016M::new(b"one").unwrap(), B016M::new(b"").unwrap()];
    let bytes = written(Seq064K::new(&transactions).unwrap());
    let (seq, _) = read::<Seq064K<'_, B016M<'_>>>(&bytes).unwrap();
    assert_eq!(seq.iter().collect::<Vec<_>>(), transactions);
    assert_eq!(seq.iter().len(), 2);
    assert!(Seq0255::new(&[0_u8; 256]).is_err());
    assert_eq!(read::<Seq0255<'_, [u8; 32]>>(&[1, 0]).map(|_| ()), Err(FieldError::Truncated));
}

#[test]
fn text_is_cleaned_and_cut_for_people() {
    assert_eq!(Str0255::new(b"a\x07b\xff").unwrap().to_clean_string(), "ab\u{fffd}");
    let long = "é".repeat(200);
    assert_eq!(Str0255::cut(&long).as_bytes().len(), 254);
}
