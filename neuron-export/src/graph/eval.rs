//! [`eval`]: what a graph computes, one number after the other. For tests: slow, and plain enough to be believed.

use super::{Binary, Compare, Elem, Graph, Node, Op, Reduction, Unary};
use std::collections::BTreeMap;

/// An array in row-major order; whole numbers and truth values are numbers too.
#[derive(Debug, Clone)]
struct Array {
    dims: Vec<usize>,
    values: Vec<f32>,
}

impl Array {
    /// The value at each index, by what gives it.
    fn each(dims: Vec<usize>, value: impl Fn(&[usize]) -> f32) -> Self {
        let count = dims.iter().product();
        let mut index = vec![0; dims.len()];
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(value(&index));
            for axis in (0..dims.len()).rev() {
                index[axis] += 1;
                if index[axis] < dims[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Self { dims, values }
    }

    fn at(&self, index: impl IntoIterator<Item = usize>) -> f32 {
        let steps = index.into_iter().zip(&self.dims);
        self.values[steps.fold(0, |at, (i, n)| at * n + i)]
    }
}

/// The result of `graph` in a bucket, of the inputs in their order.
pub(crate) fn eval(
    graph: &Graph,
    bucket: (usize, usize),
    inputs: &[Vec<i32>],
    weights: &BTreeMap<String, Vec<f32>>,
) -> Vec<f32> {
    let mut done: Vec<Array> = Vec::with_capacity(graph.nodes.len());
    let mut input = inputs.iter();
    for node in &graph.nodes {
        let dims: Vec<usize> = node.ty.dims.iter().map(|dim| dim.of(bucket)).collect();
        let leaf = match &node.op {
            Op::Input(_) => Some(input.next().unwrap().iter().map(|x| *x as f32).collect()),
            Op::Weight(name) => Some(weights[name].clone()),
            Op::Real(bits) => Some(vec![f32::from_bits(*bits)]),
            Op::Integer(x) => Some(vec![*x as f32]),
            Op::Count => Some((0..bucket.1).map(|i| i as f32).collect()),
            _ => None,
        };
        let operands: Vec<&Array> = node.operands.iter().map(|v| &done[v.index()]).collect();
        let mut array = match leaf {
            Some(values) => Array { dims, values },
            None => inner(node, dims, &operands),
        };
        assert_eq!(array.values.len(), array.dims.iter().product::<usize>());
        if node.ty.elem == Elem::Bf16 {
            let round = |x: &mut f32| *x = half::bf16::from_f32(*x).to_f32();
            array.values.iter_mut().for_each(round);
        }
        done.push(array);
    }
    done[graph.output.index()].values.clone()
}

fn inner(node: &Node, dims: Vec<usize>, operands: &[&Array]) -> Array {
    let a = operands[0];
    match &node.op {
        Op::Unary(unary) => Array::each(dims, |i| one(*unary, a.at(i.iter().copied()))),
        Op::Binary(binary) => Array::each(dims, |i| {
            let [a, b] = [0, 1].map(|o| operands[o].at(i.iter().copied()));
            two(*binary, a, b)
        }),
        Op::Compare(compare) => Array::each(dims, |i| {
            let [a, b] = [0, 1].map(|o| operands[o].at(i.iter().copied()));
            f32::from(match compare {
                Compare::Eq => a == b,
                Compare::Ge => a >= b,
                Compare::Ne => a != b,
            })
        }),
        Op::Select => Array::each(dims, |i| {
            let [which, a, b] = [0, 1, 2].map(|o| operands[o].at(i.iter().copied()));
            if which == 0.0 { b } else { a }
        }),
        Op::Convert | Op::Reshape => Array {
            dims,
            values: a.values.clone(),
        },
        Op::Broadcast { axes } => Array::each(dims, |i| a.at(axes.iter().map(|axis| i[*axis]))),
        Op::Transpose { axes } => Array::each(dims, |i| {
            a.at((0..axes.len()).map(|from| i[axes.iter().position(|to| *to == from).unwrap()]))
        }),
        Op::Slice { starts, .. } => Array::each(dims, |i| {
            a.at(i.iter().zip(starts).map(|(i, start)| i + start))
        }),
        Op::Concat => {
            let (last, width) = (dims.len() - 1, a.dims[dims.len() - 1]);
            Array::each(dims, |i| {
                let (from, shift) = if i[last] < width {
                    (a, 0)
                } else {
                    (operands[1], width)
                };
                let place = |(axis, i): (usize, &usize)| if axis == last { i - shift } else { *i };
                from.at(i.iter().enumerate().map(place))
            })
        }
        Op::Dot { batch, contract } => dot(dims, (a, operands[1]), batch, *contract),
        Op::Gather => Array::each(dims, |i| {
            let (column, row) = i.split_last().unwrap();
            a.at([operands[1].at(row.iter().copied()) as usize, *column])
        }),
        Op::Reduce { reduction, axis } => Array::each(dims, |i| {
            let with = |k| {
                let mut whole = i.to_vec();
                whole.insert(*axis, k);
                a.at(whole)
            };
            let all = (0..a.dims[*axis]).map(with);
            match reduction {
                Reduction::Add => all.sum(),
                Reduction::Max => all.fold(f32::MIN, f32::max),
            }
        }),
        Op::Input(_) | Op::Weight(_) | Op::Real(_) | Op::Integer(_) | Op::Count => {
            unreachable!("has no operands")
        }
    }
}

fn dot(
    dims: Vec<usize>,
    (a, b): (&Array, &Array),
    batch: &[(usize, usize)],
    contract: (usize, usize),
) -> Array {
    let rest = |array: &Array, side: &dyn Fn(&(usize, usize)) -> usize| -> Vec<usize> {
        let taken: Vec<usize> = batch.iter().chain([&contract]).map(side).collect();
        (0..array.dims.len())
            .filter(|axis| !taken.contains(axis))
            .collect()
    };
    let (left, right) = (rest(a, &|pair| pair.0), rest(b, &|pair| pair.1));
    Array::each(dims, |i| {
        let (mut x, mut y) = (vec![0; a.dims.len()], vec![0; b.dims.len()]);
        for (n, (p, q)) in batch.iter().enumerate() {
            (x[*p], y[*q]) = (i[n], i[n]);
        }
        for (n, axis) in left.iter().enumerate() {
            x[*axis] = i[batch.len() + n];
        }
        for (n, axis) in right.iter().enumerate() {
            y[*axis] = i[batch.len() + left.len() + n];
        }
        let product = |k| {
            let (mut x, mut y) = (x.clone(), y.clone());
            (x[contract.0], y[contract.1]) = (k, k);
            a.at(x) * b.at(y)
        };
        (0..a.dims[contract.0]).map(product).sum()
    })
}

fn one(unary: Unary, x: f32) -> f32 {
    match unary {
        Unary::Abs => x.abs(),
        Unary::Exp => x.exp(),
        Unary::Neg => -x,
        Unary::Rsqrt => 1.0 / x.sqrt(),
        // `signum` of 0 is 1.
        Unary::Sign => f32::from(x > 0.0) - f32::from(x < 0.0),
        Unary::Tanh => x.tanh(),
    }
}

fn two(binary: Binary, a: f32, b: f32) -> f32 {
    match binary {
        Binary::Add => a + b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Mul => a * b,
        Binary::Sub => a - b,
    }
}
