//! Norms of rows to which a product was just added: one kernel does both, with the bits of two.

use super::*;
use crate::{Epilogue, Then, layer_norm, linear, rms_norm};

/// A product added to rows, and then a norm of them.
struct Case {
    x: Rows,
    weight: PackedWeight,
    bias: Option<Vec<f32>>,
    hidden: Rows,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Norm {
    Rms,
    Layer,
}

/// What comes between the product and the norm.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Between {
    Nothing,
    /// The rows are read.
    Read,
    /// Other work is asked for.
    Work,
}

impl Case {
    fn new((rows, cols, width): (usize, usize, usize), format: Format, bias: bool) -> Self {
        let mut random = Random::new((rows + width) as u64);
        let weight = match format {
            Format::FP8 => {
                let values = random.values(width * cols);
                let weight = PackedWeight::from_f32(width, cols, format, &values);
                weight.and_then(PackedWeight::with_fp8_activations)
            }
            _ => Ok(random.weight(width, cols, format)),
        };
        Self {
            x: random.rows(rows, cols),
            weight: weight.expect("a weight"),
            bias: bias.then(|| random.values(width)),
            hidden: random.rows(rows, width),
            scale: random.values(width),
            shift: random.values(width),
        }
    }

    /// The rows, and beside them their norms.
    fn run(&self, cx: &Cx, norm: Norm, between: Between) -> Rows {
        let mut hidden = self.hidden.clone();
        let epilogue = Epilogue::bias(self.bias.as_deref(), Then::Add);
        linear(cx, &self.x, &self.weight, epilogue, &mut hidden);
        let mut other = Rows::new();
        match between {
            Between::Nothing => {}
            Between::Read => assert!(!hidden.as_slice().is_empty()),
            Between::Work => rms_norm(cx, &self.hidden, &self.scale, 1e-5, &mut other),
        }
        let mut normed = Rows::new();
        match norm {
            Norm::Rms => rms_norm(cx, &hidden, &self.scale, 1e-5, &mut normed),
            Norm::Layer => layer_norm(cx, &mut hidden, &self.scale, &self.shift, 1e-5),
        }
        let both = [hidden.as_slice(), normed.as_slice()].concat();
        Rows::from_vec(hidden.width(), both)
    }
}

#[test]
fn a_residual_and_its_norm_are_one_kernel_with_the_bits_of_two() {
    // Few rows of a packed weight have sums to finish; tiles and the library add by themselves, unless there is a bias or a scale.
    for (format, shape, bias) in [
        (Format::Q4_0, (1, 64, 96), false),
        (Format::Q4_0, (8, 96, 600), true),
        (Format::Q4_0, (20, 64, 34), true),
        (Format::Bf16, (3, 40, 100), true),
        (Format::F32, (70, 33, 257), true),
        (Format::FP8, (5, 48, 130), false),
        (Format::FP8, (2, 32, 48), true),
    ] {
        let world = World::with(&[("capability", 89)]);
        let case = Case::new(shape, format, bias);
        for norm in [Norm::Rms, Norm::Layer] {
            let what = format!("{format:?} {shape:?} {norm:?}");
            let name = match norm {
                Norm::Rms => "launch:residual_rms_norm",
                Norm::Layer => "launch:residual_layer_norm",
            };
            // Small arrays go to the device first, which ends a list of commands.
            let apart = case.run(&world.cx, norm, Between::Read);
            for between in [Between::Read, Between::Work] {
                let before = world.device.count(name);
                let got = case.run(&world.cx, norm, between);
                assert_bits(&what, got.as_slice(), apart.as_slice());
                assert_eq!(world.device.count(name), before, "{what} {between:?}");
            }
            let (before, finished) = (
                world.device.count(name),
                world.device.count("launch:finish"),
            );
            let got = world.in_all_orders(|cx| case.run(cx, norm, Between::Nothing));
            assert_bits(&what, got.as_slice(), apart.as_slice());
            let runs = SEEDS.len() as i64;
            assert_eq!(world.device.count(name), before + runs, "{what}");
            assert_eq!(world.device.count("launch:finish"), finished, "{what}");
        }
        world.good();
    }
}

/// What adds by itself, or comes last in another way, is left as it is.
#[test]
fn a_norm_after_something_else_takes_nothing() {
    let world = World::new();
    let case = Case::new((30, 64, 64), Format::Q4_0, false);
    let few = Case::new((2, 64, 64), Format::Q4_0, false);
    for _ in 0..2 {
        case.run(&world.cx, Norm::Rms, Between::Nothing);
        // Other rows than those that were added to.
        let (mut hidden, mut normed) = (few.hidden.clone(), Rows::new());
        let epilogue = Epilogue::then(Then::Add);
        linear(&world.cx, &few.x, &few.weight, epilogue, &mut hidden);
        rms_norm(&world.cx, &few.hidden, &few.scale, 1e-5, &mut normed);
        assert_ne!(hidden.as_slice(), few.hidden.as_slice());
    }
    assert_eq!(world.device.count("launch:residual_rms_norm"), 0);
    // The control: the same rows are.
    few.run(&world.cx, Norm::Rms, Between::Nothing);
    assert_eq!(world.device.count("launch:residual_rms_norm"), 1);
    world.good();
}
