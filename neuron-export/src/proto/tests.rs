use super::*;
use crate::graph::{Dim, Elem};
use std::io::Cursor;

fn written(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let mut values =
        |values: &Values, out: &mut dyn Write| out.write_all(&vec![7; values.bytes() as usize]);
    message.write::<io::Error>(&mut out, &mut values).unwrap();
    assert_eq!(out.len() as u64, message.len());
    out
}

/// The examples of the encoding's public description.
#[test]
fn numbers_texts_and_lists_are_encoded_as_described() {
    let mut message = Message::default();
    message
        .int(1, 150)
        .text(2, "testing")
        .ints(6, [3, 270, 86_942]);
    let expected = b"\x08\x96\x01\x12\x07testing\x32\x06\x03\x8e\x02\x9e\xa7\x05";
    assert_eq!(written(&message), expected);
    let mut message = Message::default();
    message.int(1, -2).int(2, 0).text(3, "").ints(4, []);
    let minus_two = b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    assert_eq!(written(&message), minus_two);
    let mut message = Message::default();
    message.float(4, 1.0).bytes(5, b"");
    assert_eq!(written(&message), b"\x25\0\0\x80\x3f\x2a\0");
}

#[test]
fn values_go_where_they_are_named_and_count_in_every_length() {
    let weight = Values {
        name: "w".to_owned(),
        ty: Type::new(Elem::Bf16, &[Dim::Fixed(100), Dim::Fixed(3)]),
    };
    let (mut inner, mut outer) = (Message::default(), Message::default());
    inner.int(1, 1).values(2, weight).int(3, 1);
    outer.message(1, inner);
    let bytes = written(&outer);
    let head = b"\x0a\xdf\x04\x08\x01\x12\xd8\x04";
    assert_eq!(bytes[..8], head[..]);
    assert_eq!(bytes.len(), 8 + 600 + 2);
    assert_eq!(bytes[8..], [[7; 600].as_slice(), b"\x18\x01"].concat());
}

#[test]
fn what_was_written_is_read() {
    let (mut inner, mut message) = (Message::default(), Message::default());
    inner.ints(9, [1, 300, u32::MAX.into()]);
    message
        .int(1, i64::MAX)
        .float(2, 1.0)
        .text(3, "abc")
        .message(4, inner);
    let bytes = written(&message);
    let mut reader = Reader::new(Cursor::new(&bytes)).unwrap();
    let (mut at, end) = (0, bytes.len() as u64);
    let mut next = |reader: &mut Reader<_>| reader.field(&mut at, end).unwrap();
    let field = |number, content| Some(Field { number, content });
    assert_eq!(next(&mut reader), field(1, Content::Int(i64::MAX as u64)));
    assert_eq!(next(&mut reader), field(2, Content::Fixed));
    let Some(Field {
        number: 3,
        content: Content::Span(from, to),
    }) = next(&mut reader)
    else {
        panic!("a text");
    };
    assert_eq!(reader.bytes((from, to), 3).unwrap(), b"abc");
    assert!(reader.bytes((from, to), 2).is_err());
    let Some(Field {
        number: 4,
        content: Content::Span(mut from, to),
    }) = next(&mut reader)
    else {
        panic!("a message");
    };
    let list = reader.field(&mut from, to).unwrap().unwrap();
    let Content::Span(from, to) = list.content else {
        panic!("a list");
    };
    assert_eq!(
        reader.ints((from, to), 99).unwrap(),
        [1, 300, u32::MAX.into()]
    );
    assert_eq!(next(&mut reader), None);
}

#[test]
fn damaged_bytes_are_errors() {
    let damaged: [&[u8]; 6] = [
        b"\x08",
        b"\x08\x80",
        b"\x0a\x05abc",
        b"\x0b",
        b"\x09abc",
        b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ];
    for bytes in damaged {
        let mut reader = Reader::new(Cursor::new(bytes)).unwrap();
        assert!(
            reader.field(&mut 0, bytes.len() as u64).is_err(),
            "{bytes:?}"
        );
    }
}
