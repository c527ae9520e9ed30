//! No allocation per token in steady state: a counting allocator watches an engine thread generate.
//!
//! The count is of the whole process between two tokens far apart, so the budget allows for what is amortised over many
//! tokens (a channel's next page of 32 events), and nothing that every token pays.

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
    let options = LoadOptions {
        name: "llama".to_owned(),
        dtype: Dtype::Auto,
        ..LoadOptions::default()
    };
    let mut loaded = load(
        &Source::Folder(golden::root().join("llama").join("model")),
        &options,
    )
    .expect("a golden model loads");
    loaded.limits.max_len = loaded.limits.max_len.min(1024);
    let config = EngineConfig {
        cache_bytes: 16 << 20,
        ..EngineConfig::default()
    };
    let engine = EngineHandle::start(loaded, config, Arc::new(Team::new(2)), Isa::detect())
        .expect("the engine starts");

    let (warm_up, measured) = (64, 320);
    let sampling = SamplingOptions {
        max_tokens: Some(warm_up + measured + 8),
        temperature: Some(0.8),
        top_p: Some(0.9),
        seed: Some(1),
        ignore_eos: true,
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
    let mut events = engine.submit(request).expect("admitted");
    let mut take = |count: i64| {
        for _ in 0..count {
            assert!(matches!(events.blocking_next(), Some(Event::Token { .. })));
        }
    };
    take(warm_up);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    take(measured);
    let during = ALLOCATIONS.load(Ordering::Relaxed) - before;
    // One page of the event channel per 32 tokens, and a block table or index that doubles now and then.
    assert!(
        during <= measured as usize / 16,
        "{during} allocations in {measured} tokens"
    );
    drop(Box::new(during));
    assert!(
        ALLOCATIONS.load(Ordering::Relaxed) > before + during,
        "the allocator counts"
    );
}
