//! Shapes in an ONNX model: lists of int64, of which batch and sequence are known when it runs.
//!
//! Invariant: each list and each of its parts is made once.

use super::{Actual, Attribute, Writer};
use crate::graph::{Dim, Value};

impl Writer<'_> {
    /// A list of dimensions, int64.
    pub(super) fn shape(&mut self, dims: &[Dim]) -> String {
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
    pub(super) fn shape_part(&mut self, dim: Dim) -> String {
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
    pub(super) fn whole(&mut self, value: Value) -> String {
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
}
