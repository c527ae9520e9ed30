//! Each chunk exactly once, who goes first, panics. Nothing here measures time.

use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

/// A small generator of its own, so that failures repeat.
fn next(seed: &mut u64) -> usize {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

/// One region; asserts that each chunk ran once.
fn check(team: &Team, class: Class, chunks: usize) {
    let runs: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
    team.run(class, chunks, &|c| {
        runs[c].fetch_add(1, Ordering::Relaxed);
    });
    for (c, n) in runs.iter().enumerate() {
        assert_eq!(n.load(Ordering::Relaxed), 1, "chunk {c} of {chunks}");
    }
}

#[test]
fn every_chunk_once_from_many_threads() {
    for threads in [0, 1, 2, 3, 17] {
        let team = Team::with_max_slice(threads, Duration::from_micros(50));
        assert_eq!(team.threads(), threads.max(1));
        std::thread::scope(|scope| {
            for caller in 0..5 {
                let team = &team;
                scope.spawn(move || {
                    let mut seed = caller * 977 + threads as u64;
                    for _ in 0..300 {
                        let class = [Class::Latency, Class::Throughput][next(&mut seed) % 2];
                        check(team, class, next(&mut seed) % 60);
                    }
                });
            }
        });
        assert!(team.stats().regions <= 5 * 300);
        assert!(team.stats().regions > 5 * 250);
    }
}

#[test]
fn thread_numbers_are_exclusive() {
    let team = Team::new(4);
    let held: Vec<AtomicUsize> = (0..team.threads()).map(|_| AtomicUsize::new(0)).collect();
    for _ in 0..200 {
        team.run_indexed(Class::Throughput, 64, &|thread, _| {
            assert_eq!(held[thread].fetch_add(1, Ordering::SeqCst), 0);
            held[thread].fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Spins until `n` callers of `class` wait: progress of other threads, not time.
fn until_waiting(team: &Team, class: Class, n: usize) {
    while team.turns.waiting(class) < n {
        std::thread::yield_now();
    }
}

#[test]
fn a_latency_caller_waits_for_one_chunk() {
    const CHUNKS: usize = 400;
    for threads in [1, 2, 4] {
        let team = Team::with_max_slice(threads, Duration::from_hours(1));
        let begun = AtomicUsize::new(0);
        let seen = AtomicUsize::new(usize::MAX);
        let (go, start) = mpsc::channel();
        let go = std::sync::Mutex::new(go);
        std::thread::scope(|scope| {
            let (team, begun, seen) = (&team, &begun, &seen);
            scope.spawn(move || {
                start.recv().unwrap();
                team.run(Class::Latency, 1, &|_| {
                    seen.store(begun.load(Ordering::SeqCst), Ordering::SeqCst);
                });
            });
            team.run(Class::Throughput, CHUNKS, &|chunk| {
                begun.fetch_add(1, Ordering::SeqCst);
                if chunk == 5 {
                    go.lock().unwrap().send(()).unwrap();
                    until_waiting(team, Class::Latency, 1);
                }
                // The others hold their chunk until it has come: none can run away meanwhile.
                while chunk > 5
                    && seen.load(Ordering::SeqCst) == usize::MAX
                    && team.turns.waiting(Class::Latency) == 0
                {
                    std::thread::yield_now();
                }
            });
        });
        let seen = seen.load(Ordering::SeqCst);
        assert!(
            (6..=6 + threads).contains(&seen),
            "{seen} chunks had begun on {threads} threads"
        );
        assert_eq!(begun.load(Ordering::SeqCst), CHUNKS);
        assert_eq!(team.stats().yields, 1);
        assert_eq!(team.stats().regions, 2);
    }
}

#[test]
fn a_waiting_latency_caller_goes_before_an_earlier_throughput_caller() {
    let team = Team::with_max_slice(2, Duration::from_hours(1));
    let order = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let (team, order) = (&team, &order);
        // A latency region holds the team, so nothing yields; then a throughput and a latency caller come, in this order.
        team.run(Class::Latency, 1, &|_| {
            scope.spawn(move || {
                team.run(Class::Throughput, 1, &|_| {
                    order.lock().unwrap().push("throughput");
                });
            });
            until_waiting(team, Class::Throughput, 1);
            scope.spawn(move || {
                team.run(Class::Latency, 1, &|_| {
                    order.lock().unwrap().push("latency");
                });
            });
            until_waiting(team, Class::Latency, 1);
        });
    });
    assert_eq!(*order.lock().unwrap(), ["latency", "throughput"]);
    assert_eq!(team.stats().latency_first, 1);
}

/// Two latency callers that always want the team; a throughput region of 50 chunks ends beside them because of the bound.
#[test]
fn throughput_is_not_starved() {
    let team = Team::with_max_slice(2, Duration::ZERO);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (team, stop, done) = (&team, &stop, &done);
        for _ in 0..2 {
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    team.run(Class::Latency, 4, &|_| std::thread::yield_now());
                }
            });
        }
        until_waiting(team, Class::Latency, 1);
        team.run(Class::Throughput, 50, &|_| {
            done.fetch_add(1, Ordering::SeqCst);
        });
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(done.load(Ordering::SeqCst), 50);
}

/// While a latency region runs and both classes wait, the bound decides; the control is the same with an endless bound.
#[test]
fn after_its_slice_latency_gives_way() {
    for (slice, expected) in [
        (Duration::ZERO, ["throughput", "latency"]),
        (Duration::from_hours(1), ["latency", "throughput"]),
    ] {
        let team = Team::with_max_slice(2, slice);
        let order = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let (team, order) = (&team, &order);
            team.run(Class::Latency, 1, &|_| {
                scope.spawn(move || {
                    team.run(Class::Latency, 1, &|_| {
                        order.lock().unwrap().push("latency");
                    });
                });
                until_waiting(team, Class::Latency, 1);
                scope.spawn(move || {
                    team.run(Class::Throughput, 1, &|_| {
                        order.lock().unwrap().push("throughput");
                    });
                });
                until_waiting(team, Class::Throughput, 1);
            });
        });
        assert_eq!(*order.lock().unwrap(), expected);
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_team_lives_on() {
    for threads in [1, 2, 5] {
        let team = Team::new(threads);
        for bad in [0, 7, 29] {
            let running = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(Class::Throughput, 30, &|chunk| {
                    running.fetch_add(1, Ordering::SeqCst);
                    // resume_unwind: no message on the terminal
                    if chunk == bad {
                        running.fetch_sub(1, Ordering::SeqCst);
                        std::panic::resume_unwind(Box::new(bad));
                    }
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }));
            let payload = caught.expect_err("the panic is passed on");
            assert_eq!(payload.downcast_ref::<usize>(), Some(&bad));
            assert_eq!(
                running.load(Ordering::SeqCst),
                0,
                "all that had begun have ended"
            );
            check(&team, Class::Latency, 40);
        }
    }
}

#[test]
fn a_team_is_shared_with_those_who_had_it_just_now() {
    let hour = Duration::from_hours(1);
    let team = Team::new(2);
    check(&team, Class::Latency, 3);
    assert!(!team.turns.are_shared(hour), "nobody else");
    let before = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| check(&team, Class::Throughput, 3));
    });
    assert!(team.turns.are_shared(before.elapsed()));
    check(&team, Class::Latency, 3);
    check(&team, Class::Latency, 3);
    assert!(
        team.turns.are_shared(before.elapsed()),
        "still, after regions of one's own"
    );
    assert!(
        !team.turns.are_shared(Duration::ZERO),
        "the control: long ago"
    );
}

/// As a throughput caller, another latency caller waits for a slice at most.
#[test]
fn a_long_latency_region_gives_way_to_its_own_class() {
    for (slice, expected) in [(Duration::ZERO, 6), (Duration::from_hours(1), 40)] {
        let team = Team::with_max_slice(1, slice);
        let (begun, seen) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        std::thread::scope(|scope| {
            let (team, begun, seen) = (&team, &begun, &seen);
            team.run(Class::Latency, 40, &|chunk| {
                begun.fetch_add(1, Ordering::SeqCst);
                if chunk == 5 {
                    scope.spawn(move || {
                        team.run(Class::Latency, 1, &|_| {
                            seen.store(begun.load(Ordering::SeqCst), Ordering::SeqCst);
                        });
                    });
                    until_waiting(team, Class::Latency, 1);
                }
            });
        });
        assert_eq!(seen.load(Ordering::SeqCst), expected, "{slice:?}");
    }
}

/// A turn that a throughput caller left unused ends with the next latency region: it does not hold up all that follow.
#[test]
fn a_turn_that_nobody_uses_ends() {
    let (team, hour) = (Team::new(2), Duration::from_hours(1));
    assert_eq!(team.turns.give_credit(hour), None);
    check(&team, Class::Latency, 3);
    assert_eq!(team.turns.give_credit(hour), None, "it was over");
    check(&team, Class::Throughput, 3);
    let left = team.turns.give_credit(hour);
    assert!(
        left.is_some_and(|left| left < hour),
        "the control: one that is used lasts"
    );
}

#[test]
fn a_nested_region_is_refused() {
    let team = Team::new(2);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        team.run(Class::Latency, 1, &|_| {
            let nested = catch_unwind(AssertUnwindSafe(|| team.run(Class::Latency, 1, &|_| {})));
            std::panic::resume_unwind(nested.expect_err("refused"));
        });
    }));
    assert!(caught.is_err());
    check(&team, Class::Latency, 3);
}

/// A latency region of many chunks stops for a throughput caller once its slice is over; the control has an endless one.
#[test]
fn a_long_latency_region_gives_way() {
    const CHUNKS: usize = 40;
    for (slice, expected) in [(Duration::ZERO, 6), (Duration::from_hours(1), CHUNKS)] {
        let team = Team::with_max_slice(1, slice);
        let begun = AtomicUsize::new(0);
        let seen = AtomicUsize::new(usize::MAX);
        std::thread::scope(|scope| {
            let (team, begun, seen) = (&team, &begun, &seen);
            team.run(Class::Latency, CHUNKS, &|chunk| {
                begun.fetch_add(1, Ordering::SeqCst);
                if chunk == 5 {
                    scope.spawn(move || {
                        team.run(Class::Throughput, 1, &|_| {
                            seen.store(begun.load(Ordering::SeqCst), Ordering::SeqCst);
                        });
                    });
                    until_waiting(team, Class::Throughput, 1);
                }
            });
        });
        assert_eq!(seen.load(Ordering::SeqCst), expected, "{slice:?}");
        assert_eq!(begun.load(Ordering::SeqCst), CHUNKS);
        assert_eq!(team.stats().yields, u64::from(expected < CHUNKS));
    }
}
