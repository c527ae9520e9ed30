//! [`Builder`]: operations with checked operands.

use super::{Binary, Compare, Dim, Elem, Graph, Node, Op, Reduction, Type, Unary, Value};
use crate::manifest::InputName;
use std::collections::HashMap;

/// A graph that is being built. Every method panics if the operands do not fit the operation as [`Op`] describes it.
#[derive(Default)]
pub(crate) struct Builder {
    nodes: Vec<Node>,
    /// Operations without operands.
    known: HashMap<Node, Value>,
}

impl Builder {
    /// A graph of nothing but its inputs.
    pub(crate) fn new(inputs: &[InputName]) -> (Self, Vec<Value>) {
        let mut builder = Self::default();
        let ty = Type::new(Elem::S32, &[Dim::Batch, Dim::Seq]);
        let add = |name: &InputName| builder.leaf(Op::Input(*name), ty.clone());
        let values = inputs.iter().map(add).collect();
        (builder, values)
    }

    /// The whole graph, with the result `output`.
    #[track_caller]
    pub(crate) fn finish(self, output: Value) -> Graph {
        let ty = &self.nodes[output.0].ty;
        let rows = matches!(ty.dims.as_slice(), [Dim::Batch, Dim::Fixed(_)]);
        assert!(rows && ty.elem == Elem::F32, "the result is {ty:?}");
        Graph {
            nodes: self.nodes,
            output,
        }
    }

    /// The type of a value.
    pub(crate) fn ty(&self, value: Value) -> &Type {
        &self.nodes[value.0].ty
    }

    /// The dimensions of a value.
    pub(crate) fn dims(&self, value: Value) -> Vec<Dim> {
        self.ty(value).dims.clone()
    }

    fn add(&mut self, op: Op, operands: &[Value], ty: Type) -> Value {
        self.nodes.push(Node {
            op,
            operands: operands.to_vec(),
            ty,
        });
        Value(self.nodes.len() - 1)
    }

    fn leaf(&mut self, op: Op, ty: Type) -> Value {
        let operands = Vec::new();
        let node = Node { op, operands, ty };
        if let Some(value) = self.known.get(&node) {
            return *value;
        }
        let value = self.add(node.op.clone(), &[], node.ty.clone());
        self.known.insert(node, value);
        value
    }

    /// The weight `name`.
    #[track_caller]
    pub(crate) fn weight(&mut self, name: &str, elem: Elem, dims: &[usize]) -> Value {
        assert!(matches!(elem, Elem::F32 | Elem::Bf16), "{name} is {elem:?}");
        let dims: Vec<Dim> = dims.iter().map(|n| Dim::Fixed(*n)).collect();
        self.leaf(Op::Weight(name.to_owned()), Type::new(elem, &dims))
    }

    /// One f32.
    pub(crate) fn real(&mut self, x: f32) -> Value {
        self.leaf(Op::Real(x.to_bits()), Type::new(Elem::F32, &[]))
    }

    /// One s32.
    pub(crate) fn integer(&mut self, x: i32) -> Value {
        self.leaf(Op::Integer(x), Type::new(Elem::S32, &[]))
    }

    /// s32 `[Seq]`: 0, 1, 2...
    pub(crate) fn count(&mut self) -> Value {
        self.leaf(Op::Count, Type::new(Elem::S32, &[Dim::Seq]))
    }

    /// f32 `dims` full of `x`.
    pub(crate) fn full(&mut self, x: f32, dims: &[Dim]) -> Value {
        let x = self.real(x);
        self.broadcast(x, dims, &[])
    }

    /// Value by value.
    #[track_caller]
    pub(crate) fn unary(&mut self, unary: Unary, a: Value) -> Value {
        let ty = self.ty(a).clone();
        assert_eq!(ty.elem, Elem::F32, "{unary:?}");
        self.add(Op::Unary(unary), &[a], ty)
    }

    #[track_caller]
    fn same(&self, what: &dyn std::fmt::Debug, a: Value, b: Value) -> Type {
        assert_eq!(self.ty(a), self.ty(b), "{what:?}");
        self.ty(a).clone()
    }

    /// Value by value.
    #[track_caller]
    pub(crate) fn binary(&mut self, binary: Binary, a: Value, b: Value) -> Value {
        let ty = self.same(&binary, a, b);
        assert!(matches!(ty.elem, Elem::F32 | Elem::S32), "{ty:?}");
        self.add(Op::Binary(binary), &[a, b], ty)
    }

    /// With the same number everywhere.
    #[track_caller]
    pub(crate) fn with(&mut self, binary: Binary, a: Value, x: f32) -> Value {
        let dims = self.dims(a);
        let x = self.full(x, &dims);
        self.binary(binary, a, x)
    }

    /// Value by value.
    #[track_caller]
    pub(crate) fn compare(&mut self, compare: Compare, a: Value, b: Value) -> Value {
        let ty = self.same(&compare, a, b);
        assert!(matches!(ty.elem, Elem::F32 | Elem::S32), "{ty:?}");
        let ty = Type::new(Elem::Pred, &ty.dims);
        self.add(Op::Compare(compare), &[a, b], ty)
    }

    /// `a` where `which`, `b` elsewhere.
    #[track_caller]
    pub(crate) fn select(&mut self, which: Value, a: Value, b: Value) -> Value {
        let ty = self.same(&"select", a, b);
        let pred = Type::new(Elem::Pred, &ty.dims);
        assert_eq!(*self.ty(which), pred, "select");
        self.add(Op::Select, &[which, a, b], ty)
    }

    /// The same values with another type; nothing if they have it.
    pub(crate) fn convert(&mut self, a: Value, elem: Elem) -> Value {
        let ty = self.ty(a).clone();
        if ty.elem == elem {
            return a;
        }
        let ty = Type::new(elem, &ty.dims);
        self.add(Op::Convert, &[a], ty)
    }

    /// See [`Op::Broadcast`]; nothing if `a` has these dimensions.
    #[track_caller]
    pub(crate) fn broadcast(&mut self, a: Value, dims: &[Dim], axes: &[usize]) -> Value {
        let from = self.ty(a).clone();
        if from.dims == dims {
            return a;
        }
        assert!(axes.windows(2).all(|pair| pair[0] < pair[1]), "{axes:?}");
        let kept: Vec<Dim> = axes.iter().map(|axis| dims[*axis]).collect();
        assert_eq!(kept, from.dims, "broadcast to {dims:?}");
        let axes = axes.to_vec();
        self.add(Op::Broadcast { axes }, &[a], Type::new(from.elem, dims))
    }

    /// See [`Op::Reshape`].
    #[track_caller]
    pub(crate) fn reshape(&mut self, a: Value, dims: &[Dim]) -> Value {
        let from = self.ty(a).clone();
        let symbols = |dims: &[Dim]| {
            let fixed = |dim: &Dim| matches!(dim, Dim::Fixed(_));
            let symbols = dims.iter().position(fixed).unwrap_or(dims.len());
            assert!(dims[symbols..].iter().all(fixed), "{dims:?}");
            dims[..symbols].to_vec()
        };
        let size = |dims: &[Dim]| dims.iter().map(|d| d.of((1, 1))).product::<usize>();
        assert_eq!(symbols(&from.dims), symbols(dims), "reshape");
        assert_eq!(size(&from.dims), size(dims), "reshape of {from:?}");
        self.add(Op::Reshape, &[a], Type::new(from.elem, dims))
    }

    /// See [`Op::Transpose`].
    #[track_caller]
    pub(crate) fn transpose(&mut self, a: Value, axes: &[usize]) -> Value {
        let from = self.ty(a).clone();
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..from.dims.len()), "{axes:?}");
        let dims: Vec<Dim> = axes.iter().map(|axis| from.dims[*axis]).collect();
        let axes = axes.to_vec();
        self.add(Op::Transpose { axes }, &[a], Type::new(from.elem, &dims))
    }

    /// `count` indices of `axis` from `start`; all of the other axes.
    #[track_caller]
    pub(crate) fn slice(&mut self, a: Value, axis: usize, (start, count): (usize, Dim)) -> Value {
        let from = self.ty(a).clone();
        let (mut starts, mut ends) = (vec![0; from.dims.len()], from.dims.clone());
        let mut dims = from.dims.clone();
        starts[axis] = start;
        ends[axis] = match (count, from.dims[axis]) {
            (Dim::Fixed(n), Dim::Fixed(all)) => {
                assert!(n > 0 && start + n <= all, "{start} and {n} of {all}");
                Dim::Fixed(start + n)
            }
            // Whoever binds the symbol knows that the bucket fits.
            (symbol, _) => {
                assert!(start == 0 || matches!(symbol, Dim::Fixed(_)), "{start}");
                match symbol {
                    Dim::Fixed(n) => Dim::Fixed(start + n),
                    symbol => symbol,
                }
            }
        };
        dims[axis] = count;
        self.add(
            Op::Slice { starts, ends },
            &[a],
            Type::new(from.elem, &dims),
        )
    }

    /// See [`Op::Concat`].
    #[track_caller]
    pub(crate) fn concat(&mut self, a: Value, b: Value) -> Value {
        let (x, y) = (self.ty(a).clone(), self.ty(b).clone());
        let mut dims = x.dims.clone();
        let (last, other) = (dims.pop(), y.dims.last());
        let (Some(Dim::Fixed(m)), Some(Dim::Fixed(n))) = (last, other) else {
            panic!("concat of {x:?} and {y:?}");
        };
        assert_eq!(
            (x.elem, dims.as_slice()),
            (y.elem, &y.dims[..y.dims.len() - 1]),
            "concat"
        );
        dims.push(Dim::Fixed(m + n));
        self.add(Op::Concat, &[a, b], Type::new(x.elem, &dims))
    }

    /// See [`Op::Dot`].
    #[track_caller]
    pub(crate) fn dot(
        &mut self,
        (a, b): (Value, Value),
        contract: (usize, usize),
        batch: &[(usize, usize)],
    ) -> Value {
        let (x, y) = (self.ty(a).clone(), self.ty(b).clone());
        assert_eq!(x.elem, y.elem, "dot");
        assert!(matches!(x.elem, Elem::F32 | Elem::Bf16), "dot of {x:?}");
        assert_eq!(x.dims[contract.0], y.dims[contract.1], "dot");
        let mut dims = Vec::new();
        for (i, j) in batch {
            assert_eq!(x.dims[*i], y.dims[*j], "dot");
            dims.push(x.dims[*i]);
        }
        let left =
            (0..x.dims.len()).filter(|i| *i != contract.0 && batch.iter().all(|b| b.0 != *i));
        dims.extend(left.map(|i| x.dims[i]));
        let left =
            (0..y.dims.len()).filter(|i| *i != contract.1 && batch.iter().all(|b| b.1 != *i));
        dims.extend(left.map(|i| y.dims[i]));
        let batch = batch.to_vec();
        self.add(
            Op::Dot { batch, contract },
            &[a, b],
            Type::new(Elem::F32, &dims),
        )
    }

    /// See [`Op::Gather`].
    #[track_caller]
    pub(crate) fn gather(&mut self, table: Value, rows: Value) -> Value {
        let (from, by) = (self.ty(table).clone(), self.ty(rows).clone());
        assert_eq!((from.dims.len(), by.elem), (2, Elem::S32), "gather");
        let mut dims = by.dims;
        dims.push(from.dims[1]);
        self.add(Op::Gather, &[table, rows], Type::new(from.elem, &dims))
    }

    /// See [`Op::Reduce`].
    #[track_caller]
    pub(crate) fn reduce(&mut self, reduction: Reduction, a: Value, axis: usize) -> Value {
        let mut ty = self.ty(a).clone();
        assert_eq!(ty.elem, Elem::F32, "{reduction:?}");
        ty.dims.remove(axis);
        self.add(Op::Reduce { reduction, axis }, &[a], ty)
    }
}
