use super::lint::{Facts, OPCODES, lint};
use super::*;
use crate::graph::Builder;
use crate::manifest::InputName;
use std::io::{self, Cursor, Write};

fn bytes(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let mut values =
        |values: &Values, out: &mut dyn Write| out.write_all(&vec![1; values.bytes() as usize]);
    message.write::<io::Error>(&mut out, &mut values).unwrap();
    out
}

fn linted(bytes: &[u8]) -> Result<Facts, String> {
    lint(Cursor::new(bytes)).map_err(|e| e.to_string())
}

/// Rows of a table, summed over a text.
fn sums() -> Graph {
    let (mut b, inputs) = Builder::new(&[InputName::InputIds, InputName::AttentionMask]);
    let table = b.weight("table", Elem::F32, &[9, 4]);
    let rows = b.gather(table, inputs[0]);
    let mask = b.convert(inputs[1], Elem::F32);
    let dims = b.dims(rows);
    let mask = b.broadcast(mask, &dims, &[0, 1]);
    let masked = b.binary(Binary::Mul, rows, mask);
    let sum = b.reduce(Reduction::Add, masked, 1);
    b.finish(sum)
}

#[test]
fn a_module_passes_and_tells_its_shapes() {
    let graph = sums();
    for (weights, parameters) in [(Weights::Inline, 2), (Weights::Separate, 3)] {
        let module = bytes(&module("sums", &graph, (3, 5), weights));
        let facts = linted(&module).unwrap();
        assert_eq!(facts.parameters.len(), parameters);
        assert_eq!(facts.parameters[..2], [[3, 5], [3, 5]]);
        assert_eq!(facts.results, [[3, 4]]);
        let opcodes: Vec<&str> = facts.opcodes.iter().map(String::as_str).collect();
        let rest = [
            "broadcast",
            "constant",
            "convert",
            "gather",
            "multiply",
            "parameter",
            "reduce",
            "tuple",
        ];
        let mut expected = vec!["add"];
        expected.extend(rest);
        assert_eq!(opcodes, expected);
        let again = bytes(&super::module("sums", &graph, (3, 5), weights));
        assert_eq!(module, again);
    }
    let inline = module("sums", &graph, (3, 5), Weights::Inline).len();
    let separate = module("sums", &graph, (3, 5), Weights::Separate).len();
    assert!(inline > separate + 100, "{inline} {separate}");
}

#[test]
fn the_list_of_operations_is_in_order() {
    assert!(OPCODES.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

/// A module of one constant in a tuple, with something wrong in it.
struct Crafted {
    elem: i64,
    dynamic: Vec<i64>,
    layout: Option<Vec<i64>>,
    opcode: &'static str,
    value: Vec<u8>,
    ids: (i64, i64),
    operand: i64,
    root: &'static str,
    entry: i64,
    extra: u32,
}

impl Default for Crafted {
    fn default() -> Self {
        Self {
            elem: 11,
            dynamic: vec![0, 0],
            layout: Some(vec![1, 0]),
            opcode: "constant",
            value: vec![0; 24],
            ids: (1, 2),
            operand: 1,
            root: "tuple",
            entry: 3,
            extra: 0,
        }
    }
}

impl Crafted {
    fn shape(&self) -> Message {
        let mut shape = Message::default();
        shape.int(2, self.elem).ints(3, [2, 3]);
        if let Some(order) = &self.layout {
            let mut layout = Message::default();
            layout.ints(1, order.iter().copied());
            shape.message(5, layout);
        }
        shape.ints(6, self.dynamic.iter().copied());
        shape
    }

    fn module(&self) -> Vec<u8> {
        let (mut literal, mut one, mut two) = <(Message, Message, Message)>::default();
        literal.message(1, self.shape()).bytes(8, &self.value);
        one.text(1, "one")
            .text(2, self.opcode)
            .message(3, self.shape());
        if self.opcode == "constant" {
            one.message(8, literal);
        }
        one.int(35, self.ids.0).int(self.extra, self.extra.into());
        let result = if self.root == "tuple" {
            tuple(self.shape())
        } else {
            self.shape()
        };
        two.text(1, "two").text(2, self.root).message(3, result);
        two.int(35, self.ids.1).ints(36, [self.operand]);
        let (mut main, mut module) = <(Message, Message)>::default();
        main.text(1, "main").message(2, one).message(2, two);
        main.int(5, 3).int(6, self.ids.1);
        module.text(1, "m").message(3, main).int(6, self.entry);
        bytes(&module)
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_fault_is_found_and_named() {
    assert!(linted(&Crafted::default().module()).is_ok());
    let ok = Crafted::default;
    let faults = [
        (Crafted { elem: 12, ..ok() }, "element type 12"),
        (Crafted { elem: 5, ..ok() }, "element type 5"),
        (
            Crafted {
                dynamic: vec![],
                ..ok()
            },
            "not dynamic",
        ),
        (
            Crafted {
                dynamic: vec![0, 1],
                ..ok()
            },
            "not dynamic",
        ),
        (
            Crafted {
                layout: None,
                ..ok()
            },
            "no row-major layout",
        ),
        (
            Crafted {
                layout: Some(vec![0, 1]),
                ..ok()
            },
            "no row-major layout",
        ),
        (
            Crafted {
                opcode: "erf",
                ..ok()
            },
            "`one` is erf, which no export may use",
        ),
        (
            Crafted {
                opcode: "custom-call",
                ..ok()
            },
            "`one` is custom-call",
        ),
        (
            Crafted {
                value: vec![0; 20],
                ..ok()
            },
            "`one` has a value of another shape",
        ),
        (
            Crafted {
                ids: (1, 1),
                ..ok()
            },
            "the id 1 of something else",
        ),
        (
            Crafted {
                ids: (0, 2),
                ..ok()
            },
            "the id 0",
        ),
        (
            Crafted {
                ids: (1 << 31, 2),
                ..ok()
            },
            "the id 2147483648",
        ),
        (
            Crafted { operand: 2, ..ok() },
            "`two` uses 2, which is not before it",
        ),
        (
            Crafted {
                root: "negate",
                ..ok()
            },
            "the root is negate, expected tuple",
        ),
        (
            Crafted { entry: 7, ..ok() },
            "the computation that is run is not there",
        ),
        (Crafted { extra: 7, ..ok() }, "`one` has the field 7"),
    ];
    for (crafted, expected) in faults {
        let error = linted(&crafted.module()).unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn bytes_that_are_cut_off_or_changed_never_panic() {
    let module = bytes(&module("sums", &sums(), (1, 2), Weights::Inline));
    for end in 0..module.len() {
        assert!(linted(&module[..end]).is_err(), "{end}");
    }
    for at in 0..module.len() {
        let mut changed = module.clone();
        changed[at] ^= 0x81;
        // Some changes are to names and values, which are nobody's business.
        let _ = linted(&changed);
    }
    assert!(linted(b"no module").is_err());
}
