//! The arithmetic of a forecast on given times, and the steps that a load makes. Nothing is timed.

use super::*;

fn phase(operations: f64, products: f64) -> Phase {
    Phase {
        tokens: 4,
        products,
        attention: 2.0 * products,
        rest: 0.5,
        bytes: 10.0,
        operations,
    }
}

#[test]
fn a_step_that_was_not_run_lies_between_two_that_were() {
    let (a, b) = (phase(100.0, 1.0), phase(300.0, 2.0));
    let extent = Extent {
        tokens: 9,
        bytes: 7.0,
        operations: 150.0,
    };
    let found = between(&a, &b, &extent);
    let expected = Phase {
        tokens: 9,
        products: 1.25,
        attention: 2.5,
        rest: 0.5,
        bytes: 7.0,
        operations: 150.0,
    };
    assert_eq!(found, expected);
    let one = between(&a, &a, &extent);
    assert_eq!((one.products, one.rest), (1.0, 0.5));
    let sum = Phase::default().and(a, 1).and(found, 3);
    assert_eq!((sum.tokens, sum.seconds()), (31, 3.5 + 3.0 * 4.25));
    assert_eq!(sum.rate(), 31.0 / 16.25);
}

#[test]
fn the_first_and_the_last_step_are_run() {
    let check = |steps, expected: &[usize]| {
        assert_eq!(chosen(steps).collect::<Vec<_>>(), expected);
    };
    check(1, &[0]);
    check(2, &[0, 1]);
    check(6, &[0, 1, 2, 3, 4, 5]);
    check(16, &[0, 3, 6, 9, 12, 15]);
}

#[test]
fn a_format_reached_what_its_best_product_did() {
    use koma_models::kernels::{Op, Then};
    let op = |format, rows| Op::Product {
        format,
        rows,
        outputs: 20,
        cols: 10,
        then: Then::Store,
    };
    let timed = [
        (op(Format::Bf16, 1), 0.5),
        (op(Format::F32, 1), 1.0),
        (op(Format::Bf16, 8), 1.0),
    ];
    let rate = |format, bytes, operations| FormatRate {
        format,
        bytes,
        operations,
    };
    let expected = [
        rate(Format::Bf16, 800.0, 3200.0),
        rate(Format::F32, 800.0, 400.0),
    ];
    assert_eq!(formats(&timed), expected);
}

#[test]
fn prompts_fill_steps_and_are_cut_where_the_model_generates() {
    let check = |[batch, input_len, output_len]: [usize; 3], max: usize, expected: &[Lens]| {
        let load = ForecastLoad {
            batch,
            input_len,
            output_len,
        };
        assert_eq!(prompt_steps(&load, max), expected, "{load:?}");
    };
    check([1, 5, 1], 8, &[vec![(5, 5, true)]]);
    check(
        [2, 5, 1],
        8,
        &[vec![(5, 5, true), (3, 3, false)], vec![(2, 5, true)]],
    );
    check(
        [1, 5, 1],
        2,
        &[vec![(2, 2, false)], vec![(2, 4, false)], vec![(1, 5, true)]],
    );
    check([2, 5, 0], 8, &[vec![(5, 5, true)], vec![(5, 5, true)]]);
    check([2, 4, 0], 8, &[vec![(4, 4, true), (4, 4, true)]]);
    check([1, 5, 0], 2, &[vec![(5, 5, true)]]);
}

#[test]
fn the_toys_can_be_rehearsed() {
    for loaded in [crate::toy::decoder(), crate::toy::encoder()] {
        let generates = !loaded.model.cache_groups().is_empty();
        let load = ForecastLoad {
            batch: 2,
            input_len: 5,
            output_len: if generates { 4 } else { 0 },
        };
        let outline = loaded.outline();
        let config = EngineConfig {
            max_batch_tokens: 64,
            max_running: 4,
            ..EngineConfig::default()
        };
        let team = Arc::new(Team::new(1));
        let found = forecast(
            (&outline, loaded.model),
            &load,
            &config,
            &team,
            Isa::detect(),
        );
        let found = found.unwrap();
        assert_eq!(found.prefill.tokens, 10);
        assert_eq!(found.decode.is_some(), generates);
        assert!(found.prefill.seconds() > 0.0 && found.step_bytes > 0);
    }
}
