//! From a [`Graph`] and a bucket to an XLA `HloModuleProto`, the input of Neuron's compilers.
//!
//! Owns: field numbers (of XLA's `hlo.proto` and `xla_data.proto`, as far back as TensorFlow's copies go: Neuron's documentation
//! names those), how each operation is told in them. Must not know: architectures, files, manifests.
//!
//! Invariants: ids are small, unique in the module, and an instruction's operands come before it. Every shape has a layout, and says
//! of each dimension that it is not dynamic (older XLA asks for that). The root is a tuple. [`lint`] checks all of it.

pub mod lint;
#[cfg(test)]
mod tests;

use crate::graph::{Binary, Compare, Dim, Elem, Graph, Node, Op, Reduction, Type, Unary, Value};
use crate::manifest::Weights;
use crate::proto::{Message, Values};

/// Name of the computation that is run.
const MAIN: &str = "main";

/// `PrimitiveType` of a tuple.
const TUPLE: i64 = 13;

/// `PrimitiveType` of values.
fn primitive(elem: Elem) -> i64 {
    match elem {
        Elem::Pred => 1,
        Elem::S32 => 4,
        Elem::F32 => 11,
        Elem::Bf16 => 16,
    }
}

/// A `ShapeProto`.
fn shape(elem: Elem, dims: &[usize]) -> Message {
    let (mut shape, mut layout) = (Message::default(), Message::default());
    shape.int(2, primitive(elem));
    shape.ints(3, dims.iter().map(|n| *n as i64));
    // Row-major: the last dimension is the fastest.
    layout.ints(1, (0..dims.len() as i64).rev());
    shape.message(5, layout);
    shape.ints(6, dims.iter().map(|_| 0));
    shape
}

/// The shape of a tuple of one array.
fn tuple(inner: Message) -> Message {
    let mut shape = Message::default();
    shape.int(2, TUPLE).message(4, inner);
    shape
}

/// A computation that is being written.
#[derive(Default)]
struct Computation {
    instructions: Vec<Message>,
    /// Names and shapes of parameters, in their order.
    parameters: Vec<(String, (Elem, Vec<usize>))>,
}

/// An instruction's fields, beside its name, id and operands.
struct Instruction {
    opcode: &'static str,
    shape: Message,
    /// The fields that only this kind has.
    rest: Message,
}

impl Computation {
    fn add(&mut self, id: i64, operands: &[i64], instruction: Instruction) {
        let mut message = Message::default();
        let opcode = instruction.opcode;
        message.text(1, &format!("{opcode}.{id}")).text(2, opcode);
        message.message(3, instruction.shape);
        message.append(instruction.rest);
        message.int(35, id);
        message.ints(36, operands.iter().copied());
        self.instructions.push(message);
    }

    fn program_shape(&self, result: Message) -> Message {
        let mut program = Message::default();
        for (_, (elem, dims)) in &self.parameters {
            program.message(1, shape(*elem, dims));
        }
        program.message(2, result);
        for (name, _) in &self.parameters {
            program.text(3, name);
        }
        program
    }

    fn finish(self, name: &str, (id, root): (i64, i64), result: Message) -> Message {
        let program = self.program_shape(result);
        let mut message = Message::default();
        message.text(1, name);
        for instruction in self.instructions {
            message.message(2, instruction);
        }
        message.message(4, program).int(5, id).int(6, root);
        message
    }
}

/// The module `name` for a bucket of `batch` rows of `seq` tokens. Parameters are the inputs, then, with
/// [`Weights::Separate`], the weights in the order of [`Graph::weights`]; else weights are constants.
pub fn module(name: &str, graph: &Graph, bucket: (usize, usize), weights: Weights) -> Message {
    let mut writer = Writer {
        graph,
        bucket,
        weights,
        last: 0,
        reducers: Vec::new(),
        computations: Vec::new(),
        main: Computation::default(),
        ids: Vec::with_capacity(graph.nodes.len()),
    };
    for node in &graph.nodes {
        let id = writer.node(node);
        writer.ids.push(id);
    }
    writer.finish(name)
}

struct Writer<'a> {
    graph: &'a Graph,
    bucket: (usize, usize),
    weights: Weights,
    /// The last id that was given.
    last: i64,
    /// Ids of the computations that reductions call.
    reducers: Vec<(Reduction, i64)>,
    computations: Vec<Message>,
    main: Computation,
    /// Of the nodes.
    ids: Vec<i64>,
}

impl Writer<'_> {
    fn id(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    fn dims(&self, ty: &Type) -> Vec<usize> {
        ty.dims.iter().map(|dim| dim.of(self.bucket)).collect()
    }

    fn shape(&self, ty: &Type) -> Message {
        shape(ty.elem, &self.dims(ty))
    }

    /// Writes the instruction of `node`; its id.
    fn node(&mut self, node: &Node) -> i64 {
        let mut operands: Vec<i64> = node.operands.iter().map(|v| self.ids[v.index()]).collect();
        if let Op::Reduce { reduction, .. } = node.op {
            operands.push(self.start(reduction));
        }
        let rest = self.rest(node);
        let instruction = Instruction {
            opcode: self.opcode(&node.op),
            shape: self.shape(&node.ty),
            rest,
        };
        let id = self.id();
        self.main.add(id, &operands, instruction);
        id
    }

    fn opcode(&self, op: &Op) -> &'static str {
        match op {
            Op::Input(_) => "parameter",
            Op::Weight(_) if self.weights == Weights::Separate => "parameter",
            Op::Weight(_) | Op::Real(_) | Op::Integer(_) | Op::Count => "constant",
            Op::Unary(Unary::Abs) => "abs",
            Op::Unary(Unary::Exp) => "exponential",
            Op::Unary(Unary::Neg) => "negate",
            Op::Unary(Unary::Rsqrt) => "rsqrt",
            Op::Unary(Unary::Sign) => "sign",
            Op::Unary(Unary::Tanh) => "tanh",
            Op::Binary(binary) => binary_opcode(*binary),
            Op::Compare(_) => "compare",
            Op::Select => "select",
            Op::Convert => "convert",
            Op::Broadcast { .. } => "broadcast",
            Op::Reshape => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice { .. } => "slice",
            Op::Concat => "concatenate",
            Op::Dot { .. } => "dot",
            Op::Gather => "gather",
            Op::Reduce { .. } => "reduce",
        }
    }

    /// The fields that only this kind of instruction has.
    fn rest(&mut self, node: &Node) -> Message {
        let mut rest = Message::default();
        match &node.op {
            Op::Input(name) => self.parameter(name.name(), &node.ty, &mut rest),
            Op::Weight(name) => self.weight(name, &node.ty, &mut rest),
            Op::Real(bits) => {
                let mut literal = self.literal(&node.ty);
                literal.bytes(8, &bits.to_le_bytes());
                rest.message(8, literal);
            }
            Op::Integer(x) => {
                let mut literal = self.literal(&node.ty);
                literal.ints(4, [i64::from(*x)]);
                rest.message(8, literal);
            }
            Op::Count => {
                let mut literal = self.literal(&node.ty);
                literal.ints(4, 0..Dim::Seq.of(self.bucket) as i64);
                rest.message(8, literal);
            }
            Op::Compare(compare) => {
                let direction = match compare {
                    Compare::Eq => "EQ",
                    Compare::Ge => "GE",
                    Compare::Ne => "NE",
                };
                rest.text(63, direction);
            }
            Op::Broadcast { axes } | Op::Transpose { axes } => {
                rest.ints(14, axes.iter().map(|axis| *axis as i64));
            }
            Op::Slice { starts, ends } => {
                for (start, end) in starts.iter().zip(ends) {
                    let mut one = Message::default();
                    one.int(1, *start as i64);
                    one.int(2, end.of(self.bucket) as i64).int(3, 1);
                    rest.message(17, one);
                }
            }
            Op::Concat => {
                rest.ints(14, [node.ty.dims.len() as i64 - 1]);
            }
            Op::Dot { batch, contract } => {
                rest.message(30, dot(batch, *contract));
            }
            Op::Gather => self.gather(node, &mut rest),
            Op::Reduce { reduction, axis } => {
                rest.ints(14, [*axis as i64]);
                let called = self.reducer(*reduction);
                rest.ints(38, [called]);
            }
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Convert | Op::Reshape => {}
        }
        rest
    }

    fn literal(&self, ty: &Type) -> Message {
        let mut literal = Message::default();
        literal.message(1, self.shape(ty));
        literal
    }

    fn parameter(&mut self, name: &str, ty: &Type, rest: &mut Message) {
        let dims = self.dims(ty);
        rest.int(9, self.main.parameters.len() as i64);
        self.main
            .parameters
            .push((name.to_owned(), (ty.elem, dims)));
    }

    fn weight(&mut self, name: &str, ty: &Type, rest: &mut Message) {
        if self.weights == Weights::Separate {
            return self.parameter(name, ty, rest);
        }
        let field = if ty.elem == Elem::Bf16 { 13 } else { 8 };
        let mut literal = self.literal(ty);
        literal.values(
            field,
            Values {
                name: name.to_owned(),
                ty: ty.clone(),
            },
        );
        rest.message(8, literal);
    }

    fn gather(&self, node: &Node, rest: &mut Message) {
        let operand = |i: usize| &self.graph.node(node.operands[i]).ty;
        // The axis of the result that goes along a row is its last; the numbers of rows have no axis of their own.
        let numbers = operand(1).dims.len() as i64;
        let width = operand(0).dims[1].of(self.bucket) as i64;
        let mut dims = Message::default();
        dims.ints(1, [numbers])
            .ints(2, [0])
            .ints(3, [0])
            .int(4, numbers);
        rest.message(33, dims).ints(34, [1, width]);
    }

    /// The constant that a reduction starts from; its id.
    fn start(&mut self, reduction: Reduction) -> i64 {
        let start = match reduction {
            Reduction::Add => 0.0f32,
            Reduction::Max => f32::MIN,
        };
        let (mut literal, mut rest) = (Message::default(), Message::default());
        literal.message(1, shape(Elem::F32, &[]));
        literal.bytes(8, &start.to_le_bytes());
        rest.message(8, literal);
        let id = self.id();
        let instruction = Instruction {
            opcode: "constant",
            shape: shape(Elem::F32, &[]),
            rest,
        };
        self.main.add(id, &[], instruction);
        id
    }

    /// The computation of two values that a reduction calls; its id.
    fn reducer(&mut self, reduction: Reduction) -> i64 {
        if let Some((_, id)) = self.reducers.iter().find(|(known, _)| *known == reduction) {
            return *id;
        }
        let (name, binary) = match reduction {
            Reduction::Add => ("reduce_add", Binary::Add),
            Reduction::Max => ("reduce_max", Binary::Max),
        };
        let mut computation = Computation::default();
        let mut operands = Vec::new();
        for (number, name) in ["a", "b"].into_iter().enumerate() {
            let mut rest = Message::default();
            rest.int(9, number as i64);
            let instruction = Instruction {
                opcode: "parameter",
                shape: shape(Elem::F32, &[]),
                rest,
            };
            let id = self.id();
            computation.add(id, &[], instruction);
            computation
                .parameters
                .push((name.to_owned(), (Elem::F32, Vec::new())));
            operands.push(id);
        }
        let root = self.id();
        let instruction = Instruction {
            opcode: binary_opcode(binary),
            shape: shape(Elem::F32, &[]),
            rest: Message::default(),
        };
        computation.add(root, &operands, instruction);
        let id = self.id();
        let message = computation.finish(name, (id, root), shape(Elem::F32, &[]));
        self.computations.push(message);
        self.reducers.push((reduction, id));
        id
    }

    fn finish(mut self, name: &str) -> Message {
        let output: Value = self.graph.output;
        let ty = &self.graph.node(output).ty;
        let root = self.id();
        let instruction = Instruction {
            opcode: "tuple",
            shape: tuple(self.shape(ty)),
            rest: Message::default(),
        };
        let operand = self.ids[output.index()];
        self.main.add(root, &[operand], instruction);
        let id = self.id();
        let program = self.main.program_shape(tuple(self.shape(ty)));
        let result = tuple(self.shape(ty));
        let main = self.main.finish(MAIN, (id, root), result);

        let mut module = Message::default();
        module.text(1, name).text(2, MAIN);
        for computation in self.computations {
            module.message(3, computation);
        }
        module.message(3, main).message(4, program).int(6, id);
        module
    }
}

fn binary_opcode(binary: Binary) -> &'static str {
    match binary {
        Binary::Add => "add",
        Binary::Div => "divide",
        Binary::Max => "maximum",
        Binary::Mul => "multiply",
        Binary::Sub => "subtract",
    }
}

/// `DotDimensionNumbers`.
fn dot(batch: &[(usize, usize)], contract: (usize, usize)) -> Message {
    let mut dims = Message::default();
    dims.ints(1, [contract.0 as i64])
        .ints(2, [contract.1 as i64]);
    dims.ints(3, batch.iter().map(|b| b.0 as i64));
    dims.ints(4, batch.iter().map(|b| b.1 as i64));
    dims
}
