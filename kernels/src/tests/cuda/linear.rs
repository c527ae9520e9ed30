//! Products, what follows them, and rows looked up.

use super::super::linear::{THENS, all, shapes};
use super::*;
use crate::cuda::Way;
use crate::{Epilogue, Then, embed, linear};

/// `then(x * weight^T + bias)` in f64, of factors rounded by `round`.
pub(super) fn expected(
    x: &Rows,
    weight: &PackedWeight,
    epilogue: Epilogue<'_>,
    round: fn(f32) -> f32,
    out: &mut Rows,
) {
    let n = weight.rows();
    let mut row = vec![0.0; weight.cols()];
    let mut full = vec![0.0f64; x.rows() * n];
    for o in 0..n {
        weight.dequantize_row(o, &mut row);
        for r in 0..x.rows() {
            let products = x.row(r).iter().zip(&row);
            let sum: f64 = products
                .map(|(a, b)| f64::from(round(*a)) * f64::from(round(*b)))
                .sum();
            full[r * n + o] = sum + epilogue.bias.map_or(0.0, |b| f64::from(b[o]));
        }
    }
    let width = out.width();
    for (r, y) in full.chunks_exact(n).enumerate() {
        for (o, out) in out.row_mut(r).iter_mut().enumerate() {
            let gated = |act: fn(f64) -> f64| act(y[o]) * y[o + width];
            *out = match epilogue.then {
                Then::Store => y[o],
                Then::Add => f64::from(*out) + y[o],
                Then::GeluErf => reference::gelu_erf(y[o]),
                Then::GeluTanh => reference::gelu_tanh(y[o]),
                Then::Relu => y[o].max(0.0),
                Then::Tanh => y[o].tanh(),
                Then::SiluMul => gated(reference::silu),
                Then::GeluErfMul => gated(reference::gelu_erf),
                Then::GeluTanhMul => gated(reference::gelu_tanh),
            } as f32;
        }
    }
}

fn same(v: f32) -> f32 {
    v
}

fn bf16(v: f32) -> f32 {
    half::bf16::from_f32(v).to_f32()
}

fn half(v: f32) -> f32 {
    f16::from_f32(v).to_f32()
}

/// How the factors of a product are rounded.
pub(super) fn rounding(format: Format, rows: usize) -> fn(f32) -> f32 {
    match format {
        Format::F32 => same,
        Format::F16 => half,
        Format::Bf16 => bf16,
        _ if rows <= 8 => same,
        _ => bf16,
    }
}

/// All shapes of the table, each the way that the shape asks for or `way`, with these epilogues.
fn check(world: &World, format: Format, way: Option<Way>, thens: &[Then]) {
    world.cx.multiply_by(way);
    for (i, (m, n, k)) in shapes(format).enumerate().step_by(STEP) {
        let mut random = Random::new((m * 1000 + n * 10 + k) as u64);
        let (x, weight) = (random.rows(m, k), random.weight(n, k, format));
        let bias = random.values(n);
        for (j, &then) in thens.iter().enumerate() {
            if then.is_gated() && n % 2 == 1 {
                continue;
            }
            world.device.set("seed", ((i + j) % 6) as i64 - 1);
            let bias = (j % 2 == 0).then_some(bias.as_slice());
            let width = if then.is_gated() { n / 2 } else { n };
            let mut got = random.rows(m, width);
            let mut right = got.clone();
            let epilogue = Epilogue::bias(bias, then);
            linear(&world.cx, &x, &weight, epilogue, &mut got);
            let few = m <= 8 && way.is_none();
            let round = rounding(format, if few { m } else { 9 });
            expected(&x, &weight, epilogue, round, &mut right);
            let what = format!("{format:?} {m} x {n} x {k} {then:?} {way:?}");
            let bound = if then.is_gated() { 1e-4 } else { 2e-5 };
            assert_close(&what, got.as_slice(), right.as_slice(), bound);
            world.good();
        }
    }
}

#[test]
fn products_agree_with_the_naive_body() {
    for format in all() {
        let world = World::new();
        check(&world, format, None, &THENS);
        assert!(world.device.count("cuLaunchKernel") > 0, "it ran there");
    }
}

/// Without cuBLASLt, and with it where a shape would go another way: the same table, in tiles.
#[test]
fn tiles_agree_with_the_naive_body() {
    let thens = [Then::Store, Then::Add, Then::SiluMul];
    for format in all() {
        let world = World::with(&[("library", 0)]);
        check(&world, format, Some(Way::Tiled), &thens);
        world.cx.multiply_by(None);
        // What needs the library says so.
        let (x, weight) = (
            Random::new(1).rows(3, 256),
            Random::new(2).weight(5, 256, format),
        );
        world.cx.multiply_by(Some(Way::Library));
        linear(
            &world.cx,
            &x,
            &weight,
            Epilogue::default(),
            &mut Rows::new(),
        );
        let error = world.cx.check().expect_err("no library").to_string();
        assert!(error.contains("libcublasLt.so.13"), "{error}");
    }
}

/// Where a device is all there is, many rows and plain weights go through tiles too.
#[test]
fn without_the_library_every_shape_is_multiplied() {
    for (format, m) in [
        (Format::Bf16, 1),
        (Format::F16, 70),
        (Format::F32, 3),
        (Format::Q4K, 70),
    ] {
        let world = World::with(&[("library", 0)]);
        assert!(!world.gpu.has_library());
        let mut random = Random::new(5);
        let (x, weight) = (random.rows(m, 256), random.weight(70, 256, format));
        let (mut got, mut right) = (Rows::new(), Rows::new());
        linear(&world.cx, &x, &weight, Epilogue::default(), &mut got);
        right.reset(m, 70);
        expected(
            &x,
            &weight,
            Epilogue::default(),
            rounding(format, m),
            &mut right,
        );
        assert_close(
            &format!("{format:?}"),
            got.as_slice(),
            right.as_slice(),
            2e-5,
        );
        world.good();
    }
    assert!(World::new().gpu.has_library());
}

/// A fragment's layout is what the tensor cores take: with its halves changed about, the product is another.
#[test]
fn fragments_in_another_order_are_noticed() {
    let world = World::new();
    let mut random = Random::new(6);
    let (x, weight) = (random.rows(20, 64), random.weight(40, 64, Format::Bf16));
    world.cx.multiply_by(Some(Way::Tiled));
    let (mut good, mut bad) = (Rows::new(), Rows::new());
    linear(&world.cx, &x, &weight, Epilogue::default(), &mut good);
    let stream = world.cx.stream().expect("a stream");
    crate::cuda::ops::linear_swapped(stream, &x, &weight, &mut bad);
    let wrong = far(bad.as_slice(), good.as_slice());
    assert!(wrong > bad.as_slice().len() / 2, "{wrong}");
    world.good();
}

/// On devices with bf16 and on those without, whatever rows and threads are beside a row.
#[test]
fn a_row_in_tiles_has_the_same_bits_in_any_company_and_order() {
    let formats = [
        Format::F32,
        Format::Bf16,
        Format::F16,
        Format::Q4K,
        Format::Int8,
    ];
    for (format, capability) in formats.into_iter().zip([80, 80, 75, 75, 80]) {
        let world = World::with(&[("capability", capability), ("library", 0)]);
        world.cx.multiply_by(Some(Way::Tiled));
        let mut random = Random::new(7);
        let weight = random.weight(70, 256, format);
        let x = random.rows(130, 256);
        let run = |cx: &Cx, x: &Rows| {
            let mut out = Rows::new();
            linear(cx, x, &weight, Epilogue::default(), &mut out);
            out
        };
        let whole = world.in_all_orders(|cx| run(cx, &x));
        for rows in [0..1, 129..130, 3..20, 60..130] {
            let some: Vec<f32> = rows.clone().flat_map(|r| x.row(r).to_vec()).collect();
            let got = run(&world.cx, &Rows::from_vec(256, some));
            for (i, r) in rows.enumerate() {
                assert_bits(&format!("{format:?} row {r}"), got.row(i), whole.row(r));
            }
        }
        world.good();
    }
}

#[test]
fn a_row_of_few_has_the_same_bits_in_any_company_and_order() {
    let mut random = Random::new(7);
    for format in all().filter(|f| !matches!(f, Format::F32 | Format::F16 | Format::Bf16)) {
        let world = World::new();
        let cols = if format.block_len() == 256 { 512 } else { 224 };
        let weight = random.weight(70, cols, format);
        let x = random.rows(8, cols);
        let run = |cx: &Cx, x: &Rows| {
            let mut out = Rows::new();
            linear(cx, x, &weight, Epilogue::then(Then::SiluMul), &mut out);
            out
        };
        let whole = world.in_all_orders(|cx| run(cx, &x));
        for rows in [0..1, 7..8, 3..6] {
            let some: Vec<f32> = rows.clone().flat_map(|r| x.row(r).to_vec()).collect();
            let got = run(&world.cx, &Rows::from_vec(cols, some));
            for (i, r) in rows.enumerate() {
                assert_bits(&format!("{format:?} row {r}"), got.row(i), whole.row(r));
            }
        }
        world.good();
    }
}

#[test]
fn rows_are_looked_up_bit_for_bit_in_any_order_of_columns() {
    let mut random = Random::new(3);
    for format in all() {
        let world = World::new();
        let cols = format.block_len().max(96);
        let mut order: Vec<u32> = (0..cols as u32).collect();
        order.rotate_left(37);
        for ordered in [false, true] {
            let mut weight = random.weight(67, cols, format);
            if ordered {
                weight = weight.with_order(order.clone().into());
            }
            let ids = [66, 0, 31, 32, 5, 5];
            let (mut got, mut right) = (Rows::new(), vec![0.0; cols]);
            embed(&world.cx, &ids, &weight, &mut got);
            for (i, id) in ids.iter().enumerate() {
                weight.dequantize_row(*id as usize, &mut right);
                assert_bits(&format!("{format:?} {id}"), got.row(i), &right);
            }
            for m in [2, 20] {
                let x = random.rows(m, cols);
                let (mut got, mut right) = (Rows::new(), Rows::new());
                linear(&world.cx, &x, &weight, Epilogue::default(), &mut got);
                right.reset(m, 67);
                expected(
                    &x,
                    &weight,
                    Epilogue::default(),
                    rounding(format, m),
                    &mut right,
                );
                let what = format!("{format:?} {ordered} {m}");
                assert_close(&what, got.as_slice(), right.as_slice(), 2e-5);
            }
            world.good();
        }
    }
}

/// A table goes to the device as it is in the file: half the bytes, and no rounding where a device has no bf16.
#[test]
fn a_table_gives_the_rows_of_its_file() {
    for (capability, format) in [(80, Format::F32), (80, Format::F16), (75, Format::Bf16)] {
        let world = World::with(&[("capability", capability)]);
        let (rows, cols) = (67, 45);
        let values = Random::new(21).values(rows * cols);
        let fetch =
            |row: usize, to: &mut [u8]| format.write(&values[row * cols..(row + 1) * cols], to);
        let table = PackedWeight::table(rows, cols, format, fetch).expect("a table");
        let ids = [66, 0, 31, 32, 5, 5];
        let (mut right, mut got) = (vec![0.0; cols], Rows::new());
        embed(&world.cx, &ids, &table, &mut got);
        for (i, id) in ids.iter().enumerate() {
            table.dequantize_row(*id as usize, &mut right);
            assert_bits(&format!("{format:?} {id}"), got.row(i), &right);
        }
        world.good();
        let product = std::panic::AssertUnwindSafe(|| {
            let x = Rows::from_vec(cols, vec![0.0; cols]);
            linear(&world.cx, &x, &table, Epilogue::default(), &mut Rows::new());
        });
        assert!(std::panic::catch_unwind(product).is_err(), "a product");
    }
}

/// Where a device has no bf16, bf16 weights become f16.
#[test]
fn an_older_device_multiplies_in_f16() {
    let world = World::with(&[("capability", 75)]);
    let mut random = Random::new(8);
    let weight = random.weight(40, 96, Format::Bf16);
    let x = random.rows(5, 96);
    let (mut got, mut right) = (Rows::new(), Rows::new());
    linear(&world.cx, &x, &weight, Epilogue::default(), &mut got);
    right.reset(5, 40);
    expected(&x, &weight, Epilogue::default(), half, &mut right);
    assert_close("f16", got.as_slice(), right.as_slice(), 2e-5);
    world.good();
    // Packed weights in tiles, too.
    let weight = random.weight(40, 96, Format::Q5_0);
    let x = random.rows(20, 96);
    linear(&world.cx, &x, &weight, Epilogue::default(), &mut got);
    right.reset(20, 40);
    expected(&x, &weight, Epilogue::default(), half, &mut right);
    assert_close("f16", got.as_slice(), right.as_slice(), 2e-5);
    assert_eq!(world.device.count("launch:gemm_q5_0_f16"), 1);
    world.good();
}
