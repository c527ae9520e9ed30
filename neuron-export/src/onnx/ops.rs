//! The nodes of a graph as ONNX's operators.
//!
//! Must not know: how a model is put together. Invariant: as of [`super`]; where an operator broadcasts, what it reads is not
//! written out.

use super::{Actual, Attribute, INT64, ONE, Writer, data_type};
use crate::graph::{Binary, Compare, Dim, Elem, Node, Op, Reduction, Unary, Value};

impl Writer<'_> {
    /// Writes the nodes for a node of the graph.
    pub(super) fn node(&mut self, index: usize, node: &Node) -> Actual {
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
pub(super) fn meet(a: &[Dim], b: &[Dim]) -> Vec<Dim> {
    let rank = a.len().max(b.len());
    let of = |dims: &[Dim], axis: usize| {
        let at = (axis + dims.len()).checked_sub(rank);
        at.map_or(ONE, |at| dims[at])
    };
    let both = (0..rank).map(|axis| (of(a, axis), of(b, axis)));
    both.map(|(a, b)| if a == ONE { b } else { a }).collect()
}

/// The letters of an `Einsum` for operands of these ranks.
pub(super) fn equation(
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
