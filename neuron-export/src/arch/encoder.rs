//! Post-norm encoders (BERT and its kin) as a graph: [`EncoderSpec`] says what they compute.

use super::ArchError;
use super::parts::Parts;
use crate::graph::{Binary, Builder, Compare, Dim, Elem, Graph, Reduction, Value};
use crate::manifest::{InputName, Precision};
use koma_models::Tensors;
use koma_models::spec::{EncoderSpec, Positions, Select};

/// What stands for the score of a token under a mask of 0. Its softmax is 0 in f32 beside any score that a model gives, and a
/// row of nothing but such tokens stays finite.
pub(crate) const MASK_VALUE: f32 = -1e9;

/// Builds the graph. A vector's length is left as it is: who asks decides whether it becomes 1.
pub(super) fn build(
    tensors: &Tensors,
    spec: &EncoderSpec,
    precision: Precision,
) -> Result<Graph, ArchError> {
    let mut names = vec![InputName::InputIds, InputName::AttentionMask];
    if spec.reads_segments {
        names.push(InputName::TokenTypeIds);
    }
    let (b, inputs) = Builder::new(&names);
    let parts = Parts {
        b,
        tensors,
        precision,
    };
    let mut encoder = Encoder { parts, spec };
    let mut x = encoder.embed(&inputs)?;
    let seen = encoder.seen(inputs[1]);
    for layer in 0..spec.sizes.layers {
        x = encoder.layer(x, seen, layer)?;
    }
    let mut row = encoder.select(x, inputs[1])?;
    for stage in &spec.stages {
        let shape = (stage.outputs, stage.inputs);
        let parts = &mut encoder.parts;
        row = parts.linear(row, &stage.name, shape, stage.bias)?;
        row = parts.then(row, stage.then)?;
    }
    Ok(encoder.parts.b.finish(row))
}

struct Encoder<'a> {
    parts: Parts<'a>,
    spec: &'a EncoderSpec,
}

impl Encoder<'_> {
    /// `[Batch, Seq, hidden]`
    fn hidden(&self) -> [Dim; 3] {
        [Dim::Batch, Dim::Seq, Dim::Fixed(self.spec.sizes.hidden)]
    }

    fn table(&mut self, name: &str, rows: usize) -> Result<Value, ArchError> {
        let name = format!("embeddings.{name}_embeddings.weight");
        let dims = [rows, self.spec.sizes.hidden];
        self.parts.weight(&name, Elem::F32, &dims)
    }

    /// The normalised sum of the embeddings, `[Batch, Seq, hidden]`.
    fn embed(&mut self, inputs: &[Value]) -> Result<Value, ArchError> {
        let sizes = &self.spec.sizes;
        let words = self.table("word", sizes.vocab)?;
        let mut x = self.parts.b.gather(words, inputs[0]);
        if sizes.types > 0 {
            let types = self.table("token_type", sizes.types)?;
            let types = match inputs.get(2) {
                Some(segments) => self.parts.b.gather(types, *segments),
                None => self.first_row(types),
            };
            x = self.parts.b.binary(Binary::Add, x, types);
        }
        let positions = self.positions(inputs[0])?;
        x = self.parts.b.binary(Binary::Add, x, positions);
        self.parts.norm(x, "embeddings.LayerNorm", sizes.eps)
    }

    /// Row 0 of a table for every token.
    fn first_row(&mut self, table: Value) -> Value {
        let dims = self.hidden();
        let b = &mut self.parts.b;
        let row = b.slice(table, 0, (0, Dim::Fixed(1)));
        let row = b.reshape(row, &dims[2..]);
        b.broadcast(row, &dims, &[2])
    }

    /// The rows of the table of positions.
    fn positions(&mut self, ids: Value) -> Result<Value, ArchError> {
        let table = self.table("position", self.spec.sizes.positions)?;
        let dims = self.hidden();
        Ok(match self.spec.numbering {
            Positions::Plain => {
                let rows = self.parts.b.slice(table, 0, (0, Dim::Seq));
                self.parts.b.broadcast(rows, &dims, &[1, 2])
            }
            Positions::AfterPadding(padding) => {
                let numbers = self.after_padding(ids, padding);
                self.parts.b.gather(table, numbers)
            }
        })
    }

    /// The number of each token's row: `padding` for the padding token, else `padding` and the number of tokens up to this one
    /// that are not padding. In f32, where whole numbers are exact, and without a product, which a compiler may round.
    fn after_padding(&mut self, ids: Value, padding: u32) -> Value {
        let (rows, square) = ([Dim::Batch, Dim::Seq], [Dim::Seq, Dim::Seq]);
        let cube = [Dim::Batch, Dim::Seq, Dim::Seq];
        let b = &mut self.parts.b;
        let id = b.integer(padding as i32);
        let id = b.broadcast(id, &rows, &[]);
        let real = b.compare(Compare::Ne, ids, id);
        let real = b.convert(real, Elem::F32);
        let count = b.count();
        let (to, from) = (
            b.broadcast(count, &square, &[0]),
            b.broadcast(count, &square, &[1]),
        );
        let upto = b.compare(Compare::Ge, to, from);
        let upto = b.convert(upto, Elem::F32);
        let (upto, each) = (
            b.broadcast(upto, &cube, &[1, 2]),
            b.broadcast(real, &cube, &[0, 2]),
        );
        let counted = b.binary(Binary::Mul, upto, each);
        let number = b.reduce(Reduction::Add, counted, 2);
        let number = b.binary(Binary::Mul, number, real);
        let number = b.with(Binary::Add, number, padding as f32);
        b.convert(number, Elem::S32)
    }

    /// Which tokens are seen, of each head by each token: pred `[Batch, heads, Seq, Seq]`.
    fn seen(&mut self, mask: Value) -> Value {
        let heads = Dim::Fixed(self.spec.sizes.heads);
        let b = &mut self.parts.b;
        let zero = b.integer(0);
        let zero = b.broadcast(zero, &[Dim::Batch, Dim::Seq], &[]);
        let seen = b.compare(Compare::Ne, mask, zero);
        b.broadcast(seen, &[Dim::Batch, heads, Dim::Seq, Dim::Seq], &[0, 3])
    }

    /// One layer of `x`, `[Batch, Seq, hidden]`.
    fn layer(&mut self, x: Value, seen: Value, layer: usize) -> Result<Value, ArchError> {
        let (sizes, names) = (&self.spec.sizes, self.spec.names);
        let (hidden, inner) = (sizes.hidden, sizes.inner);
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let attended = self.attention(x, seen, names.qkv.map(name))?;
        let parts = &mut self.parts;
        let y = parts.linear(attended, &name(names.attn_out), (hidden, hidden), true)?;
        let y = parts.b.binary(Binary::Add, y, x);
        let x = parts.norm(y, &name(names.attn_norm), sizes.eps)?;
        let y = parts.linear(x, &name(names.up), (inner, hidden), true)?;
        let y = parts.then(y, sizes.activation)?;
        let y = parts.linear(y, &name(names.down), (hidden, inner), true)?;
        let y = parts.b.binary(Binary::Add, y, x);
        parts.norm(y, &name(names.mlp_norm), sizes.eps)
    }

    /// Attention over the tokens of a row; `[Batch, Seq, hidden]`.
    fn attention(&mut self, x: Value, seen: Value, qkv: [String; 3]) -> Result<Value, ArchError> {
        let (hidden, heads) = (self.spec.sizes.hidden, self.spec.sizes.heads);
        let width = hidden / heads;
        let by_head = [Dim::Batch, Dim::Seq, Dim::Fixed(heads), Dim::Fixed(width)];
        let whole = self.hidden();
        let parts = &mut self.parts;
        let mut of_heads = Vec::with_capacity(qkv.len());
        for name in qkv {
            let y = parts.linear(x, &name, (hidden, hidden), true)?;
            of_heads.push(parts.b.reshape(y, &by_head));
        }
        let (q, k, v) = (of_heads[0], of_heads[1], of_heads[2]);
        let q = parts.b.with(Binary::Mul, q, 1.0 / (width as f32).sqrt());
        // [Batch, heads, Seq, Seq]
        let scores = parts.product((q, k), (3, 3), &[(0, 0), (2, 2)]);
        let dims = parts.b.dims(scores);
        let unseen = parts.b.full(MASK_VALUE, &dims);
        let scores = parts.b.select(seen, scores, unseen);
        let shares = parts.softmax(scores);
        // [Batch, heads, Seq, width]
        let y = parts.product((shares, v), (3, 1), &[(0, 0), (1, 2)]);
        let y = parts.b.transpose(y, &[0, 2, 1, 3]);
        Ok(parts.b.reshape(y, &whole))
    }

    /// One row per text, of `x`, `[Batch, Seq, hidden]`.
    fn select(&mut self, x: Value, mask: Value) -> Result<Value, ArchError> {
        let Select::Pool(modes) = &self.spec.select else {
            let reason = "a head with one row per token cannot be exported";
            return Err(ArchError::Unsupported(reason.to_owned()));
        };
        let mask = self.parts.b.convert(mask, Elem::F32);
        let rows = modes.iter().map(|mode| self.parts.pool(x, mask, *mode));
        let rows: Vec<Value> = rows.collect();
        let row = rows.into_iter().reduce(|a, b| self.parts.b.concat(a, b));
        row.ok_or_else(|| ArchError::Unsupported("there is no pooling".to_owned()))
    }
}
