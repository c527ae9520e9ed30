//! [`lint`]: whether a module is one that Neuron's compilers are known to be asked for, before anybody waits for one.
//!
//! Invariant: reads any bytes without panic, and holds no more of them than one instruction's fields.

use crate::proto::{Content, Field, MAX_BYTES, Reader};
use std::collections::BTreeSet;
use std::io::{self, Read, Seek};

/// The operations that may be in a module, and how many operands each has. All are plain XLA operations of its oldest releases;
/// there is no custom call among them.
pub const OPCODES: [(&str, usize); 25] = [
    ("abs", 1),
    ("add", 2),
    ("broadcast", 1),
    ("compare", 2),
    ("concatenate", 2),
    ("constant", 0),
    ("convert", 1),
    ("divide", 2),
    ("dot", 2),
    ("exponential", 1),
    ("gather", 2),
    ("maximum", 2),
    ("multiply", 2),
    ("negate", 1),
    ("parameter", 0),
    ("reduce", 2),
    ("reshape", 1),
    ("rsqrt", 1),
    ("select", 3),
    ("sign", 1),
    ("slice", 1),
    ("subtract", 2),
    ("tanh", 1),
    ("transpose", 1),
    ("tuple", 1),
];

/// Longest text or list of small numbers in an instruction.
const MAX_FIELD: u64 = 1 << 20;
/// Ids are below this: other readers keep them in 32 bits.
const MAX_ID: u64 = 1 << 31;
/// Dimensions of a shape at most.
const MAX_RANK: usize = 8;

/// Why a module is refused.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// It cannot be read, or is no message.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a message, and not a module as it should be.
    #[error("{0}")]
    Module(String),
}

type Result<T> = std::result::Result<T, LintError>;

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(LintError::Module(reason.into()))
}

/// What is in a module that passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Names of the operations, in ascending order, each once.
    pub opcodes: Vec<String>,
    /// Instructions of all computations.
    pub instructions: usize,
    /// Dimensions of the parameters, in their order.
    pub parameters: Vec<Vec<usize>>,
    /// Dimensions of the results.
    pub results: Vec<Vec<usize>>,
}

/// Fails if the bytes of `file`, a serialized `HloModuleProto`, hold anything that this exporter does not write: other operations,
/// other types than pred, s32, f32 and bf16, dynamic dimensions, shapes without layout, ids that are large, double or used before
/// they are there, constants of another length than their shape's, an entry that gives no tuple, or 2 GiB.
///
/// # Errors
/// [`LintError`] with the first fault.
pub fn lint(file: impl Read + Seek) -> Result<Facts> {
    let mut reader = Reader::new(file)?;
    let end = reader.end()?;
    if end > MAX_BYTES {
        return refuse(format!(
            "has {end} bytes; a module of 2 GiB or more cannot be read: write weights separately"
        ));
    }
    let mut module = Module {
        reader,
        ids: BTreeSet::new(),
        computations: Vec::new(),
        opcodes: BTreeSet::new(),
        instructions: 0,
    };
    module.read(end)
}

type Span = (u64, u64);

/// An array, or a tuple of arrays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Shape {
    elem: u64,
    dims: Vec<usize>,
    tuple: Vec<Shape>,
}

/// A computation that was read.
struct Computation {
    id: u64,
    root: Instruction,
    /// By their numbers.
    parameters: Vec<Shape>,
}

#[derive(Debug, Clone, Default)]
struct Instruction {
    name: String,
    opcode: String,
    shape: Option<Shape>,
    /// Of a constant: its shape, and the bytes or numbers of its values.
    literal: Option<Span>,
    number: u64,
    id: u64,
    operands: Vec<u64>,
    called: Vec<u64>,
}

struct Module<R> {
    reader: Reader<R>,
    /// Ids of instructions and computations so far.
    ids: BTreeSet<u64>,
    computations: Vec<Computation>,
    opcodes: BTreeSet<String>,
    instructions: usize,
}

impl<R: Read + Seek> Module<R> {
    fn read(&mut self, end: u64) -> Result<Facts> {
        let (mut at, mut entry) = (0, None);
        while let Some(field) = self.reader.field(&mut at, end)? {
            match (field.number, field.content) {
                (1 | 2 | 4, Content::Span(..)) | (5, Content::Int(_)) => {}
                (3, Content::Span(from, to)) => self.computation((from, to))?,
                (6, Content::Int(id)) => entry = Some(id),
                _ => return refuse(unknown(field, "the module")),
            }
        }
        let Some(main) = self.computations.iter().find(|c| Some(c.id) == entry) else {
            return refuse("the computation that is run is not there");
        };
        let result = main.root.shape.clone().unwrap_or_default();
        if main.root.opcode != "tuple" {
            let opcode = &main.root.opcode;
            return refuse(format!("the root is {opcode}, expected tuple"));
        }
        Ok(Facts {
            opcodes: self.opcodes.iter().cloned().collect(),
            instructions: self.instructions,
            parameters: main.parameters.iter().map(|s| s.dims.clone()).collect(),
            results: result.tuple.into_iter().map(|s| s.dims).collect(),
        })
    }

    fn computation(&mut self, (mut at, end): Span) -> Result<()> {
        let (mut id, mut root) = (0, 0);
        let mut here: Vec<Instruction> = Vec::new();
        while let Some(field) = self.reader.field(&mut at, end)? {
            match (field.number, field.content) {
                (1 | 4, Content::Span(..)) => {}
                (2, Content::Span(from, to)) => {
                    let instruction = self.instruction((from, to))?;
                    self.check(&instruction, &here)?;
                    self.instructions += 1;
                    here.push(instruction);
                }
                (5, Content::Int(n)) => id = n,
                (6, Content::Int(n)) => root = n,
                _ => return refuse(unknown(field, "a computation")),
            }
        }
        self.take(id, "a computation")?;
        let Some(root) = here.iter().find(|i| i.id == root).cloned() else {
            return refuse(format!("the root {root} of a computation is not in it"));
        };
        let mut parameters: Vec<_> = here
            .into_iter()
            .filter(|i| i.opcode == "parameter")
            .collect();
        parameters.sort_by_key(|p| p.number);
        let numbered = parameters
            .iter()
            .enumerate()
            .all(|(i, p)| p.number == i as u64);
        if !numbered {
            return refuse("parameters are not numbered from 0, each once");
        }
        let shapes = parameters.into_iter().filter_map(|p| p.shape);
        let parameters = shapes.collect();
        self.computations.push(Computation {
            id,
            root,
            parameters,
        });
        Ok(())
    }

    /// Notes an id.
    fn take(&mut self, id: u64, what: &str) -> Result<()> {
        if id == 0 || id >= MAX_ID {
            return refuse(format!(
                "{what} has the id {id}, expected 1 to {}",
                MAX_ID - 1
            ));
        }
        if !self.ids.insert(id) {
            return refuse(format!("{what} has the id {id} of something else"));
        }
        Ok(())
    }

    fn instruction(&mut self, (mut at, end): Span) -> Result<Instruction> {
        let mut i = Instruction::default();
        while let Some(field) = self.reader.field(&mut at, end)? {
            match (field.number, field.content) {
                (1, Content::Span(from, to)) => i.name = self.text((from, to))?,
                (2, Content::Span(from, to)) => i.opcode = self.text((from, to))?,
                (3, Content::Span(from, to)) => i.shape = Some(self.shape((from, to), true)?),
                (8, Content::Span(from, to)) => i.literal = Some((from, to)),
                (9, Content::Int(n)) => i.number = n,
                // Numbers that belong to one kind of operation, and the direction of a comparison.
                (14 | 17 | 30 | 33 | 34 | 63, Content::Span(..)) => {}
                (35, Content::Int(n)) => i.id = n,
                (36, Content::Span(from, to)) => {
                    i.operands = self.reader.ints((from, to), MAX_FIELD)?;
                }
                (38, Content::Span(from, to)) => {
                    i.called = self.reader.ints((from, to), MAX_FIELD)?;
                }
                _ => return refuse(unknown(field, &format!("the instruction `{}`", i.name))),
            }
        }
        Ok(i)
    }

    /// Checks an instruction behind those in `before`.
    fn check(&mut self, i: &Instruction, before: &[Instruction]) -> Result<()> {
        let what = format!("the instruction `{}`", i.name);
        let Some((opcode, operands)) = OPCODES.iter().find(|(name, _)| *name == i.opcode) else {
            return refuse(format!("{what} is {}, which no export may use", i.opcode));
        };
        self.opcodes.insert((*opcode).to_owned());
        self.take(i.id, &what)?;
        if i.operands.len() != *operands {
            let count = i.operands.len();
            return refuse(format!("{what} has {count} operands, expected {operands}"));
        }
        let there = |id: &u64| before.iter().any(|b| b.id == *id);
        if let Some(id) = i.operands.iter().find(|id| !there(id)) {
            return refuse(format!("{what} uses {id}, which is not before it"));
        }
        let known = |id: &u64| self.computations.iter().any(|c| c.id == *id);
        if i.called.len() != usize::from(*opcode == "reduce") || !i.called.iter().all(known) {
            return refuse(format!("{what} calls {:?}", i.called));
        }
        let Some(shape) = &i.shape else {
            return refuse(format!("{what} has no shape"));
        };
        if shape.tuple.is_empty() == (*opcode == "tuple") {
            return refuse(format!("{what} has the shape of something else"));
        }
        match (i.literal, *opcode == "constant") {
            (Some(span), true) => self.literal(span, shape, &what),
            (None, false) => Ok(()),
            _ => refuse(format!(
                "{what} has no value, or one that it should not have"
            )),
        }
    }

    /// Checks that a literal is an array of this shape.
    fn literal(&mut self, (mut at, end): Span, shape: &Shape, what: &str) -> Result<()> {
        let size = |total: u64, n: &usize| total.checked_mul(*n as u64);
        let values = shape.dims.iter().try_fold(1, size);
        let (mut own, mut found) = (None, None);
        while let Some(field) = self.reader.field(&mut at, end)? {
            let elem = match field.number {
                1 => 0,
                4 => 4,
                8 => 11,
                13 => 16,
                _ => return refuse(unknown(field, what)),
            };
            let Content::Span(from, to) = field.content else {
                return refuse(unknown(field, what));
            };
            if elem == 0 {
                own = Some(self.shape((from, to), false)?);
                continue;
            }
            let count = match elem {
                4 => self.reader.ints((from, to), MAX_FIELD)?.len() as u64,
                11 => (to - from) / 4,
                _ => (to - from) / 2,
            };
            found = Some((elem, count));
        }
        if own.as_ref() != Some(shape) || found != values.map(|values| (shape.elem, values)) {
            return refuse(format!("{what} has a value of another shape than its own"));
        }
        Ok(())
    }

    fn shape(&mut self, (mut at, end): Span, may_be_tuple: bool) -> Result<Shape> {
        let (mut shape, mut layout, mut dynamic) = (Shape::default(), None, Vec::new());
        while let Some(field) = self.reader.field(&mut at, end)? {
            match (field.number, field.content) {
                (2, Content::Int(elem)) => shape.elem = elem,
                (3, Content::Span(from, to)) => {
                    let dims = self.reader.ints((from, to), MAX_FIELD)?;
                    let small = |n: u64| usize::try_from(n).ok().filter(|_| n < MAX_ID);
                    let dims: Option<Vec<usize>> = dims.into_iter().map(small).collect();
                    let Some(dims) = dims.filter(|d| d.len() <= MAX_RANK) else {
                        return refuse("a shape has too many or too large dimensions");
                    };
                    shape.dims = dims;
                }
                (4, Content::Span(from, to)) if may_be_tuple => {
                    shape.tuple.push(self.shape((from, to), false)?);
                }
                (5, Content::Span(from, to)) => layout = Some(self.layout((from, to))?),
                (6, Content::Span(from, to)) => {
                    dynamic = self.reader.ints((from, to), MAX_FIELD)?;
                }
                _ => return refuse(unknown(field, "a shape")),
            }
        }
        if !shape.tuple.is_empty() {
            let bare = shape.elem == 13 && shape.dims.is_empty() && layout.is_none();
            return if bare {
                Ok(shape)
            } else {
                refuse("a shape is a tuple and an array")
            };
        }
        if ![1, 4, 11, 16].contains(&shape.elem) {
            let elem = shape.elem;
            return refuse(format!(
                "a shape has the element type {elem}, expected pred, s32, f32 or bf16"
            ));
        }
        if dynamic != vec![0; shape.dims.len()] {
            return refuse("a shape does not say of each dimension that it is not dynamic");
        }
        if !layout.is_some_and(|l| l.into_iter().eq((0..shape.dims.len() as u64).rev())) {
            return refuse("a shape has no row-major layout");
        }
        Ok(shape)
    }

    fn layout(&mut self, (mut at, end): Span) -> Result<Vec<u64>> {
        let mut order = Vec::new();
        while let Some(field) = self.reader.field(&mut at, end)? {
            match (field.number, field.content) {
                (1, Content::Span(from, to)) => order = self.reader.ints((from, to), MAX_FIELD)?,
                _ => return refuse(unknown(field, "a layout")),
            }
        }
        Ok(order)
    }

    fn text(&mut self, span: Span) -> Result<String> {
        let bytes = self.reader.bytes(span, MAX_FIELD)?;
        String::from_utf8(bytes).or_else(|_| refuse("a name is not UTF-8"))
    }
}

fn unknown(field: Field, what: &str) -> String {
    let number = field.number;
    format!("{what} has the field {number}, which no export writes, or not in this form")
}
