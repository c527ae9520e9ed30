//! From a [`Graph`] to an ONNX model of any batch and sequence, for runtimes other than Neuron's (its compilers do not read ONNX).
//!
//! Owns: field numbers (of ONNX's `onnx.proto`), how each operation is told with ONNX's operators. Must not know: architectures,
//! files, manifests.
//!
//! Invariants: operands come before the nodes that use them. A value's actual shape is its type's, or one that ONNX's operators
//! broadcast to it, aligned at the last axis: repeated values are only written out for operators that do not broadcast.

mod ops;
mod shapes;
#[cfg(test)]
mod tests;

use crate::graph::{Dim, Elem, Graph, Type};
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
