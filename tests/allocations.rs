//! No allocation per token in steady state: a counting allocator watches a whole process generate.
//!
//! Two whole requests that differ in their number of tokens only are compared, so what a request costs once falls out. The
//! bound allows for what is amortised over many tokens (a page of 32 events in a channel), and nothing that every token pays.

use koma_engine::models::kernels::{Isa, Team};
use koma_engine::models::{Dtype, LoadOptions, Source, load};
use koma_engine::{
    EngineConfig, EngineHandle, Event, NewRequest, SamplingOptions, SamplingParams, Task,
};
use koma_tests::golden;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are those of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_allocates_nothing() {
    for case in ["llama", "mixtral"] {
        check(case);
    }
}

fn check(case: &str) {
    let options = LoadOptions {
        name: case.to_owned(),
        dtype: Dtype::Auto,
        ..LoadOptions::default()
    };
    let mut loaded = load(
        &Source::Folder(golden::root().join(case).join("model")),
        &options,
    )
    .expect("a golden model loads");
    loaded.limits.max_len = loaded.limits.max_len.min(1024);
    // The prompt of `allocations` has 35 tokens.
    let (short, long) = (64, 384.min(loaded.limits.max_len as i64 - 40));
    let config = EngineConfig {
        cache_bytes: 16 << 20,
        ..EngineConfig::default()
    };
    let engine = EngineHandle::start(loaded, config, Arc::new(Team::new(2)), Isa::detect())
        .expect("the engine starts");

    // Buffers grow to the longest request first.
    allocations(&engine, long);
    let (short_cost, long_cost) = (allocations(&engine, short), allocations(&engine, long));
    let more = long_cost.saturating_sub(short_cost);
    let tokens = (long - short) as usize;
    assert!(short_cost > 0, "the allocator counts what a request costs");
    assert!(more <= tokens / 16, "{more} allocations in {tokens} tokens");
}

/// Allocations of the process while one request generates `tokens` tokens, from its submission to its end.
fn allocations(engine: &EngineHandle, tokens: i64) -> usize {
    let sampling = SamplingOptions {
        max_tokens: Some(tokens),
        temperature: Some(0.8),
        top_p: Some(0.9),
        seed: Some(1),
        ignore_eos: true,
        presence_penalty: Some(0.5),
        repetition_penalty: Some(1.1),
        logit_bias: vec![(7, 1.0)],
        allowed_token_ids: Some((5..250).collect()),
        ..SamplingOptions::default()
    };
    let task = Task::Generate(SamplingParams::new(&sampling, 256).expect("valid options"));
    let request = NewRequest {
        prompt: (5..40).collect(),
        type_ids: Vec::new(),
        task,
        priority: 0,
        queue_deadline: None,
        deadline: None,
        cache_salt: [0; 32],
    };
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut events = engine.submit(request).expect("admitted");
    let mut count = 0;
    while let Some(event) = events.blocking_next() {
        count += i64::from(matches!(event, Event::Token { .. }));
    }
    assert_eq!(count, tokens);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}
