//! The arithmetic of a forecast on given times, and the steps that a load makes. Nothing is timed.

use super::*;
use koma_models::kernels::{AttnSpec, HeadLayout, KvDtype, Then};

fn product(rows: usize) -> Op {
    Op::Product {
        format: Format::Bf16,
        rows,
        outputs: 20,
        cols: 10,
        then: Then::Store,
    }
}

fn attention() -> Op {
    let layout = HeadLayout {
        q_heads: 2,
        kv_heads: 1,
        k_dim: 4,
        v_dim: 4,
    };
    Op::Attention {
        spec: AttnSpec {
            layout,
            scale: 1.0,
            causal: true,
            window: None,
            cap: None,
        },
        lens: vec![(1, 10)],
        cache: Some(KvDtype::Bf16),
    }
}

#[test]
fn a_step_takes_the_sum_of_its_parts() {
    let step = Step {
        tokens: 3,
        rows: 2,
        operations: vec![(product(3), 4), (product(1), 1), (attention(), 5)],
        rest: 0.5,
    };
    let time = |op: &Op| match op {
        Op::Product { rows, .. } => *rows as f64,
        Op::Attention { .. } => 0.125,
    };
    let phase = step.phase(&time, 0.25);
    let expected = Phase {
        tokens: 3,
        products: 13.0,
        attention: 0.625,
        rest: 1.0,
        bytes: 5.0 * 400.0 + 5.0 * 160.0,
        operations: 4.0 * 1200.0 + 400.0 + 5.0 * 320.0,
    };
    assert_eq!(phase, expected);
    assert_eq!(phase.seconds(), 14.625);
    assert_eq!(phase.rate(), 3.0 / 14.625);
    assert_eq!(step.weight_bytes(), 2000.0);
    let both = phase.and(phase);
    assert_eq!((both.tokens, both.seconds()), (6, 29.25));
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
        assert!(found.prefill.rest > 0.0 && found.step_bytes > 0);
    }
}
