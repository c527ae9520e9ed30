//! From a [`Graph`] to an ONNX model of any batch and sequence, for runtimes other than Neuron's (its compilers do not read ONNX).
//!
//! Owns: field numbers (of ONNX's `onnx.proto`), how each operation is told with ONNX's operators. Must not know: architectures,
//! files, manifests.
//!
//! Invariants: operands come before the nodes that use them. A value's actual shape is its type's, or one that ONNX's operators
//! broadcast to it, aligned at the last axis: repeated values are only written out for operators that do not broadcast.

#[cfg(test)]
mod tests;

use crate::graph::{Binary, Compare, Dim, Elem, Graph, Node, Op, Reduction, Type, Unary, Value};
use crate::proto::{Message, Values};
use std::collections::HashMap;

/// Version of the operators.
pub const OPSET: u32 = 18;
/// Version of the file format that goes with it.
const IR_VERSION: i64 = 8;
/// `TensorProto.DataType` of values; inputs are int64, as other runtimes' tokenizers give them.
const INT64: i64 = 7;
/// `AttributeProto.AttributeType`.
const INT: i64 = 2;
/// As [`INT`].
const STRING: i64 = 3;
/// As [`INT`].
const INTS: i64 = 7;

/// `TensorProto.DataLocation` of values that are in another file.
const EXTERNAL: i64 = 1;

/// `TensorProto.DataType`.
fn data_type(elem: Elem) -> i64 {
    match elem {
        Elem::F32 => 1,
        Elem::S32 => 6,
        Elem::Pred => 9,
        Elem::Bf16 => 16,
    }
}

/// Where weights lie that are not in the model: one after the other in the order of [`Graph::weights`].
#[derive(Debug, Clone, Copy)]
pub struct Outside<'a> {
    /// A file in the model's folder.
    pub file: &'a str,
    /// Its first byte that is a weight's.
    pub start: u64,
}

/// The model. Inputs have the names of the graph's, the output is called `output`; weights are in it, or `outside`.
///
/// # Panics
/// If the graph computes in bf16: few runtimes do. The graph in f32 has the same inputs and outputs.
pub fn model(graph: &Graph, output: &str, outside: Option<&Outside<'_>>) -> Message {
    let narrow = graph.nodes.iter().any(|node| node.ty.elem == Elem::Bf16);
    assert!(!narrow, "ONNX is written of graphs in f32");
    let mut writer = Writer {
        graph,
        output,
        outside: outside.copied(),
        nodes: Vec::new(),
        initializers: Vec::new(),
        values: Vec::with_capacity(graph.nodes.len()),
        shapes: HashMap::new(),
        shape_parts: HashMap::new(),
        last: 0,
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        let actual = writer.node(index, node);
        writer.values.push(actual);
    }
    writer.finish()
}

/// A value in the model.
#[derive(Debug, Clone)]
struct Actual {
    name: String,
    /// Its dimensions; fewer, or [`ONE`] in places, where it is to be broadcast.
    dims: Vec<Dim>,
}

const ONE: Dim = Dim::Fixed(1);

/// A value of an attribute.
enum Attribute<'a> {
    Int(i64),
    Text(&'a str),
    Ints(Vec<i64>),
}

struct Writer<'a> {
    graph: &'a Graph,
    output: &'a str,
    /// Its start moves on with every weight.
    outside: Option<Outside<'a>>,
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    /// Of the graph's nodes.
    values: Vec<Actual>,
    /// Names of lists of dimensions.
    shapes: HashMap<Vec<Dim>, String>,
    /// Names of `[batch]` and `[sequence]`.
    shape_parts: HashMap<Dim, String>,
    /// The last number that made a name.
    last: usize,
}

impl Writer<'_> {
    fn fresh(&mut self) -> String {
        self.last += 1;
        format!("t{}", self.last)
    }

    /// Adds a node with one result.
    fn add(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        let result = self.fresh();
        self.add_as(op, inputs, attributes, &result);
        result
    }

    fn add_as(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute<'_>)],
        result: &str,
    ) {
        let mut node = Message::default();
        for input in inputs {
            node.text(1, input);
        }
        node.text(2, result)
            .text(3, &format!("{op}_{result}"))
            .text(4, op);
        for (name, value) in attributes {
            let mut attribute = Message::default();
            attribute.text(1, name);
            match value {
                Attribute::Int(n) => attribute.int(3, *n).int(20, INT),
                Attribute::Text(text) => attribute.bytes(4, text.as_bytes()).int(20, STRING),
                Attribute::Ints(all) => attribute.ints(8, all.iter().copied()).int(20, INTS),
            };
            node.message(5, attribute);
        }
        self.nodes.push(node);
    }

    /// A constant of these bytes.
    fn constant(&mut self, data_type: i64, dims: &[usize], bytes: &[u8]) -> String {
        let name = self.fresh();
        let mut tensor = tensor(&name, data_type, dims);
        tensor.bytes(9, bytes);
        self.initializers.push(tensor);
        name
    }

    /// A constant list of int64.
    fn numbers(&mut self, all: &[i64]) -> String {
        let bytes: Vec<u8> = all.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.constant(INT64, &[all.len()], &bytes)
    }

    /// A list of dimensions, int64.
    fn shape(&mut self, dims: &[Dim]) -> String {
        if let [dim] = dims {
            return self.shape_part(*dim);
        }
        if let Some(name) = self.shapes.get(dims) {
            return name.clone();
        }
        let fixed = |dim: &Dim| match dim {
            Dim::Fixed(n) => Some(*n as i64),
            _ => None,
        };
        let all: Option<Vec<i64>> = dims.iter().map(fixed).collect();
        let name = if let Some(all) = all {
            self.numbers(&all)
        } else {
            let parts: Vec<String> = dims.iter().map(|dim| self.shape_part(*dim)).collect();
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            self.add("Concat", &parts, &[("axis", Attribute::Int(0))])
        };
        self.shapes.insert(dims.to_vec(), name.clone());
        name
    }

    /// A list of one dimension.
    fn shape_part(&mut self, dim: Dim) -> String {
        if let Some(name) = self.shape_parts.get(&dim) {
            return name.clone();
        }
        let at = match dim {
            Dim::Fixed(n) => {
                let name = self.numbers(&[n as i64]);
                self.shape_parts.insert(dim, name.clone());
                return name;
            }
            Dim::Batch => 0,
            Dim::Seq => 1,
        };
        let input = self
            .graph
            .inputs()
            .next()
            .expect("a graph has inputs")
            .name();
        let range = [
            ("start", Attribute::Int(at)),
            ("end", Attribute::Int(at + 1)),
        ];
        let name = self.add("Shape", &[input], &range);
        self.shape_parts.insert(dim, name.clone());
        name
    }

    /// The name of an operand, repeated values written out.
    fn whole(&mut self, value: Value) -> String {
        let declared = self.graph.node(value).ty.dims.clone();
        let actual = self.values[value.index()].clone();
        if actual.dims == declared {
            return actual.name;
        }
        let shape = self.shape(&declared);
        let name = self.add("Expand", &[&actual.name, &shape], &[]);
        self.values[value.index()] = Actual {
            name: name.clone(),
            dims: declared,
        };
        name
    }

    /// A node value by value, which broadcasts.
    fn elementwise(&mut self, op: &str, operands: &[Value]) -> Actual {
        let operands: Vec<Actual> = operands
            .iter()
            .map(|v| self.values[v.index()].clone())
            .collect();
        let names: Vec<&str> = operands.iter().map(|actual| actual.name.as_str()).collect();
        let dims = operands
            .iter()
            .fold(Vec::new(), |dims, actual| meet(&dims, &actual.dims));
        let name = self.add(op, &names, &[]);
        Actual { name, dims }
    }

    /// Writes the nodes for a node of the graph.
    fn node(&mut self, index: usize, node: &Node) -> Actual {
        match &node.op {
            Op::Unary(unary) => self.unary(*unary, node),
            Op::Binary(binary) => self.elementwise(binary_op(*binary), &node.operands),
            Op::Compare(compare) => self.compare(*compare, node),
            Op::Select => self.elementwise("Where", &node.operands),
            Op::Convert => {
                let from = self.values[node.operands[0].index()].clone();
                let to = Attribute::Int(data_type(node.ty.elem));
                let name = self.add("Cast", &[&from.name], &[("to", to)]);
                Actual { name, ..from }
            }
            Op::Broadcast { axes } => self.broadcast(axes, node),
            _ => Actual {
                name: self.exact(index, node),
                dims: node.ty.dims.clone(),
            },
        }
    }

    /// Writes the nodes for one whose result is not to be broadcast; its name.
    fn exact(&mut self, index: usize, node: &Node) -> String {
        let operands: Vec<String> = match node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select | Op::Convert => Vec::new(),
            _ => node
                .operands
                .iter()
                .map(|value| self.whole(*value))
                .collect(),
        };
        let first = operands.first().map_or("", String::as_str);
        match &node.op {
            Op::Input(name) => {
                let to = [("to", Attribute::Int(data_type(Elem::S32)))];
                self.add("Cast", &[name.name()], &to)
            }
            Op::Weight(name) => self.weight(name, &node.ty),
            Op::Real(bits) => self.constant(data_type(Elem::F32), &[], &bits.to_le_bytes()),
            Op::Integer(x) => self.constant(data_type(Elem::S32), &[], &x.to_le_bytes()),
            Op::Count => self.count(),
            Op::Reshape => {
                // 0 copies the operand's dimension: symbols stay where they are.
                let of = |dim: &Dim| match dim {
                    Dim::Fixed(n) => *n as i64,
                    _ => 0,
                };
                let to: Vec<i64> = node.ty.dims.iter().map(of).collect();
                let to = self.numbers(&to);
                self.add("Reshape", &[first, &to], &[])
            }
            Op::Transpose { axes } => {
                let axes = axes.iter().map(|axis| *axis as i64).collect();
                self.add("Transpose", &[first], &[("perm", Attribute::Ints(axes))])
            }
            Op::Slice { starts, ends } => self.slice(node, first, (starts, ends)),
            Op::Concat => {
                let all: Vec<&str> = operands.iter().map(String::as_str).collect();
                self.add("Concat", &all, &[("axis", Attribute::Int(-1))])
            }
            Op::Dot { batch, contract } => self.dot(node, &operands, (batch, *contract)),
            Op::Gather => self.add("Gather", &[first, &operands[1]], &[]),
            Op::Reduce { reduction, axis } => {
                let op = match reduction {
                    Reduction::Add => "ReduceSum",
                    Reduction::Max => "ReduceMax",
                };
                let axes = self.numbers(&[*axis as i64]);
                self.add(op, &[first, &axes], &[("keepdims", Attribute::Int(0))])
            }
            _ => unreachable!("node {index}, {:?}, is written by `node`", node.op),
        }
    }

    fn unary(&mut self, unary: Unary, node: &Node) -> Actual {
        let op = match unary {
            Unary::Abs => "Abs",
            Unary::Exp => "Exp",
            Unary::Neg => "Neg",
            Unary::Rsqrt => "Sqrt",
            Unary::Sign => "Sign",
            Unary::Tanh => "Tanh",
        };
        let result = self.elementwise(op, &node.operands);
        if unary != Unary::Rsqrt {
            return result;
        }
        let name = self.add("Reciprocal", &[&result.name], &[]);
        Actual { name, ..result }
    }

    fn compare(&mut self, compare: Compare, node: &Node) -> Actual {
        let op = match compare {
            Compare::Eq | Compare::Ne => "Equal",
            Compare::Ge => "GreaterOrEqual",
        };
        let result = self.elementwise(op, &node.operands);
        if compare != Compare::Ne {
            return result;
        }
        let name = self.add("Not", &[&result.name], &[]);
        Actual { name, ..result }
    }

    /// Puts in axes of length 1, and none before the first that the operand has: whoever uses the value broadcasts it.
    fn broadcast(&mut self, axes: &[usize], node: &Node) -> Actual {
        let (operand, rank) = (node.operands[0], node.ty.dims.len());
        let first = axes.first().copied().unwrap_or(rank);
        let missing: Vec<usize> = (first..rank).filter(|axis| !axes.contains(axis)).collect();
        if missing.is_empty() {
            return self.values[operand.index()].clone();
        }
        let name = self.whole(operand);
        let places: Vec<i64> = missing.iter().map(|axis| (axis - first) as i64).collect();
        let places = self.numbers(&places);
        let dims = (first..rank).map(|axis| {
            if missing.contains(&axis) {
                ONE
            } else {
                node.ty.dims[axis]
            }
        });
        Actual {
            dims: dims.collect(),
            name: self.add("Unsqueeze", &[&name, &places], &[]),
        }
    }

    /// Only of the axes that are cut.
    fn slice(&mut self, node: &Node, from: &str, (starts, ends): (&[usize], &[Dim])) -> String {
        let whole = &self.graph.node(node.operands[0]).ty.dims;
        let cut = |axis: &usize| starts[*axis] > 0 || ends[*axis] != whole[*axis];
        let axes: Vec<usize> = (0..starts.len()).filter(cut).collect();
        let first: Vec<i64> = axes.iter().map(|axis| starts[*axis] as i64).collect();
        let ends: Vec<Dim> = axes.iter().map(|axis| ends[*axis]).collect();
        let axes: Vec<i64> = axes.into_iter().map(|axis| axis as i64).collect();
        let (first, ends, axes) = (self.numbers(&first), self.shape(&ends), self.numbers(&axes));
        self.add("Slice", &[from, &first, &ends, &axes], &[])
    }

    fn weight(&mut self, name: &str, ty: &Type) -> String {
        let mut tensor = tensor(name, data_type(ty.elem), &ty.fixed());
        let values = Values {
            name: name.to_owned(),
            ty: ty.clone(),
        };
        if let Some(outside) = &mut self.outside {
            let (start, length) = (outside.start, values.bytes());
            outside.start += length;
            let (start, length) = (start.to_string(), length.to_string());
            for (key, value) in [
                ("location", outside.file),
                ("offset", &start),
                ("length", &length),
            ] {
                let mut entry = Message::default();
                entry.text(1, key).text(2, value);
                tensor.message(13, entry);
            }
            tensor.int(14, EXTERNAL);
        } else {
            tensor.values(9, values);
        }
        self.initializers.push(tensor);
        name.to_owned()
    }

    /// 0, 1, 2... as many as the sequence is long.
    fn count(&mut self) -> String {
        let seq = self.shape_part(Dim::Seq);
        let seq = self.add("Squeeze", &[&seq], &[]);
        let zero = self.constant(INT64, &[], &0i64.to_le_bytes());
        let one = self.constant(INT64, &[], &1i64.to_le_bytes());
        let range = self.add("Range", &[&zero, &seq, &one], &[]);
        let to = [("to", Attribute::Int(data_type(Elem::S32)))];
        self.add("Cast", &[&range], &to)
    }

    /// Products with a matrix as `MatMul`, others as `Einsum`.
    fn dot(
        &mut self,
        node: &Node,
        operands: &[String],
        (batch, contract): (&[(usize, usize)], (usize, usize)),
    ) -> String {
        let rank = |i: usize| self.graph.node(node.operands[i]).ty.dims.len();
        let (left, right) = (rank(0), rank(1));
        if batch.is_empty() && right == 2 && contract.0 + 1 == left {
            if contract.1 == 0 {
                return self.add("MatMul", &[&operands[0], &operands[1]], &[]);
            }
            let turned = [("perm", Attribute::Ints(vec![1, 0]))];
            let turned = self.add("Transpose", &[&operands[1]], &turned);
            return self.add("MatMul", &[&operands[0], &turned], &[]);
        }
        let equation = equation((left, right), batch, contract);
        let equation = [("equation", Attribute::Text(&equation))];
        self.add("Einsum", &[&operands[0], &operands[1]], &equation)
    }

    fn finish(mut self) -> Message {
        let result = self.whole(self.graph.output);
        self.add_as("Identity", &[&result], &[], self.output);
        let mut graph = Message::default();
        for node in self.nodes {
            graph.message(1, node);
        }
        graph.text(2, "koma");
        for initializer in self.initializers {
            graph.message(5, initializer);
        }
        for input in self.graph.inputs() {
            graph.message(11, value_info(input.name(), INT64, &[Dim::Batch, Dim::Seq]));
        }
        let ty = &self.graph.node(self.graph.output).ty;
        graph.message(12, value_info(self.output, data_type(ty.elem), &ty.dims));

        let (mut model, mut opset) = (Message::default(), Message::default());
        opset.int(2, i64::from(OPSET));
        model.int(1, IR_VERSION).text(2, "koma");
        model.text(3, env!("CARGO_PKG_VERSION"));
        model.message(7, graph).message(8, opset);
        model
    }
}

/// A `TensorProto` without its values.
fn tensor(name: &str, data_type: i64, dims: &[usize]) -> Message {
    let mut tensor = Message::default();
    tensor.ints(1, dims.iter().map(|n| *n as i64));
    tensor.int(2, data_type).text(8, name);
    tensor
}

/// A `ValueInfoProto`.
fn value_info(name: &str, data_type: i64, dims: &[Dim]) -> Message {
    let mut shape = Message::default();
    for dim in dims {
        let mut one = Message::default();
        match dim {
            Dim::Fixed(n) => one.int(1, *n as i64),
            Dim::Batch => one.text(2, "batch"),
            Dim::Seq => one.text(2, "sequence"),
        };
        shape.message(1, one);
    }
    let (mut tensor, mut ty, mut info) =
        (Message::default(), Message::default(), Message::default());
    tensor.int(1, data_type).message(2, shape);
    ty.message(1, tensor);
    info.text(1, name).message(2, ty);
    info
}

fn binary_op(binary: Binary) -> &'static str {
    match binary {
        Binary::Add => "Add",
        Binary::Div => "Div",
        Binary::Max => "Max",
        Binary::Mul => "Mul",
        Binary::Sub => "Sub",
    }
}

/// The shape that operands of these shapes are broadcast to.
fn meet(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let of = |dims: &[Dim], axis: usize| {
        let at = (axis + dims.len()).checked_sub(rank);
        at.map_or(ONE, |at| dims[at])
    };
    let both = (0..rank).map(|axis| (of(a, axis), of(b, axis)));
    both.map(|(a, b)| if a == ONE { b } else { a }).collect()
}

/// The letters of an `Einsum` for operands of these ranks.
fn equation(
    (left, right): (usize, usize),
    batch: &[(usize, usize)],
    contract: (usize, usize),
) -> String {
    let mut letters = 'a'..='z';
    let mut next = || {
        letters
            .next()
            .expect("operands have fewer axes than there are letters")
    };
    let (mut a, mut b) = (vec![' '; left], vec![' '; right]);
    let mut out = String::new();
    for (i, j) in batch {
        let letter = next();
        (a[*i], b[*j]) = (letter, letter);
        out.push(letter);
    }
    let letter = next();
    (a[contract.0], b[contract.1]) = (letter, letter);
    for letter in a.iter_mut().chain(&mut b).filter(|letter| **letter == ' ') {
        *letter = next();
        out.push(*letter);
    }
    let text = |letters: Vec<char>| letters.into_iter().collect::<String>();
    format!("{},{}->{out}", text(a), text(b))
}
