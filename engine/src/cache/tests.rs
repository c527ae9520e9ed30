use super::key::PrefixIndex;
use super::pool::BlockPool;
use super::*;
use crate::testing::{config, full_group, toy_groups};
use koma_models::kernels::BlockTables;

const SALT: Salt = [0; 32];

fn manager(groups: Vec<koma_models::kernels::CacheGroup>, blocks: usize) -> CacheManager {
    CacheManager::new(&config(groups, blocks).cache)
}

/// Takes a request of `tokens` in and computes it in one step. Gives what it holds and how much was cached.
fn compute(cache: &mut CacheManager, salt: &Salt, tokens: &[u32]) -> (RequestCache, usize) {
    let mut held = RequestCache::default();
    let hit = cache.admit(&mut held, salt, tokens, 64, false).unwrap();
    assert!(cache.grow(&mut held, hit, tokens.len() - hit));
    cache.commit(&mut held, salt, tokens, tokens.len());
    (held, hit)
}

#[test]
fn the_free_list_is_in_order_of_last_use() {
    let mut pool = BlockPool::new(4);
    let mut index = PrefixIndex::new(4, 1, 1);
    let mut publish = |pool: &mut BlockPool, id, token| {
        pool.publish(id, index.intern(None, &SALT, &[token]).unwrap());
    };
    let taken: Vec<_> = (0..4).map(|_| pool.take().unwrap().0).collect();
    assert_eq!(
        (taken, pool.free(), pool.take()),
        (vec![0, 1, 2, 3], 0, None)
    );
    (0..3).for_each(|id| publish(&mut pool, id, id));
    for id in [2, 0, 1] {
        pool.release(id);
    }
    // 3 holds no prefix, so it goes first.
    pool.release(3);
    assert_eq!(pool.free_list().collect::<Vec<_>>(), [3, 2, 0, 1]);
    // From the middle, twice, and back.
    pool.touch(0);
    pool.touch(0);
    assert_eq!(pool.free_list().collect::<Vec<_>>(), [3, 2, 1]);
    pool.release(0);
    assert_eq!(pool.free(), 3);
    pool.release(0);
    assert_eq!(pool.free_list().collect::<Vec<_>>(), [3, 2, 1, 0]);
    // Taking a block forgets its prefix.
    let (third, second) = (pool.take().unwrap(), pool.take().unwrap());
    assert_eq!((third.0, third.1), (3, None));
    assert!(second.0 == 2 && second.1.is_some() && pool.node(2).is_none());
}

#[test]
fn a_key_is_parent_salt_and_tokens() {
    let mut index = PrefixIndex::new(3, 2, 1);
    let first = index.intern(None, &SALT, &[1, 2]).unwrap();
    let second = index.intern(Some(first), &SALT, &[1, 2]).unwrap();
    assert_ne!(first, second);
    assert_eq!(index.find(None, &SALT, &[1, 2]), Some(first));
    assert_eq!(index.find(Some(first), &SALT, &[1, 2]), Some(second));
    assert_eq!(index.find(None, &[1; 32], &[1, 2]), None);
    assert_eq!(index.find(None, &SALT, &[2, 1]), None);
    assert_eq!(index.find(Some(second), &SALT, &[1, 2]), None);
    // The same prefix again is the same node; a full tree gives none.
    assert_eq!(index.intern(None, &SALT, &[1, 2]), Some(first));
    let third = index.intern(None, &[1; 32], &[1, 2]).unwrap();
    assert_eq!(index.intern(None, &[2; 32], &[1, 2]), None);
    index.release(third);
    assert!(index.intern(None, &[2; 32], &[1, 2]).is_some());
    // A parent lives as long as its child.
    index.release(first);
    index.release(first);
    assert_eq!(index.find(Some(first), &SALT, &[1, 2]), Some(second));
    index.release(second);
    assert_eq!(index.find(None, &SALT, &[1, 2]), None);
}

#[test]
fn equal_prefixes_share_full_blocks() {
    let mut cache = manager(full_group(), 10);
    let prompt: Vec<u32> = (0..10).collect();
    let (mut a, hit) = compute(&mut cache, &SALT, &prompt);
    assert_eq!((hit, cache.used()), (0, 3));
    let (mut b, hit) = compute(&mut cache, &SALT, &prompt);
    assert_eq!((hit, cache.used()), (8, 4));
    assert_eq!(a.table(0)[..2], b.table(0)[..2]);
    assert_ne!(a.table(0)[2], b.table(0)[2]);
    let (mut other, hit) = compute(&mut cache, &[1; 32], &prompt);
    assert_eq!((hit, cache.used()), (0, 7), "another salt shares nothing");
    let computed = prompt.len();
    cache
        .check_integrity([(&a, computed), (&b, computed), (&other, computed)].into_iter())
        .unwrap();
    for held in [&mut a, &mut b, &mut other] {
        cache.free(held);
    }
    assert_eq!(cache.used(), 0);
    // All of the prompt is cached in whole blocks, but one token must be left to compute.
    let (mut c, hit) = compute(&mut cache, &SALT, &prompt[..8]);
    assert_eq!(hit, 4);
    cache.free(&mut c);
    let (mut d, hit) = compute(&mut cache, &SALT, &prompt[..9]);
    assert_eq!(hit, 8);
    cache.free(&mut d);
}

#[test]
fn the_end_of_a_prefix_is_evicted_before_its_start() {
    let mut cache = manager(full_group(), 4);
    let prompt: Vec<u32> = (0..16).collect();
    let (mut a, _) = compute(&mut cache, &SALT, &prompt);
    cache.free(&mut a);
    // Two blocks for somebody else: the last two of the first request go.
    let (mut b, _) = compute(&mut cache, &SALT, &[50; 8]);
    cache.free(&mut b);
    let mut again = RequestCache::default();
    assert_eq!(cache.admit(&mut again, &SALT, &prompt, 64, false), Some(8));
    cache.free(&mut again);
    cache.check_integrity([].into_iter()).unwrap();
}

#[test]
fn nothing_is_taken_where_there_is_no_room() {
    let mut shape = config(full_group(), 4).cache;
    shape.watermark = 0.25;
    let mut cache = CacheManager::new(&shape);
    let mut held = RequestCache::default();
    assert_eq!(cache.admit(&mut held, &SALT, &[1; 17], 64, false), None);
    assert_eq!(
        cache.admit(&mut held, &SALT, &[1; 16], 64, true),
        None,
        "watermark"
    );
    assert_eq!(cache.admit(&mut held, &SALT, &[1; 16], 64, false), Some(0));
    assert!(!cache.grow(&mut held, 0, 17));
    assert_eq!(cache.used(), 0);
    assert!(cache.grow(&mut held, 0, 16));
    cache.free(&mut held);
}

#[test]
fn a_sliding_group_frees_what_no_token_sees() {
    let mut cache = manager(toy_groups()[1..2].to_vec(), 10);
    let tokens: Vec<u32> = (0..40).collect();
    let mut held = RequestCache::default();
    assert_eq!(
        cache.admit(&mut held, &SALT, &tokens[..20], 64, false),
        Some(0)
    );
    let mut used = Vec::new();
    for end in [10, 11, 13, 20, 21] {
        let computed = used.last().map_or(0, |&(end, _)| end);
        assert!(cache.grow(&mut held, computed, end - computed));
        cache.commit(&mut held, &SALT, &tokens, end);
        used.push((end, cache.used()));
    }
    // Window 6: after 10 tokens the next one sees 5 to 10, so the block of 0 to 3 is free; after 13 it sees 8 to 13.
    assert_eq!(used, [(10, 2), (11, 2), (13, 2), (20, 2), (21, 2)]);
    assert_eq!(held.table(0)[..4], [BlockTables::FREED; 4]);
    cache.check_integrity([(&held, 21)].into_iter()).unwrap();
    cache.free(&mut held);
    // What is behind the window is cached, and a hit takes only what the next token sees.
    let mut again = RequestCache::default();
    assert_eq!(
        cache.admit(&mut again, &SALT, &tokens[..21], 64, false),
        Some(20)
    );
    assert_eq!((cache.used(), again.table(0).len()), (2, 5));
    assert_eq!(again.table(0)[..3], [BlockTables::FREED; 3]);
    cache.free(&mut again);
}

#[test]
fn a_recurrent_group_resumes_only_where_a_state_was_kept() {
    let mut cache = manager(toy_groups()[2..].to_vec(), 6);
    let tokens: Vec<u32> = (0..20).collect();
    let (mut a, _) = compute(&mut cache, &SALT, &tokens[..8]);
    // The state after 8 tokens is kept: the next step reads it and writes another slot.
    assert!(cache.grow(&mut a, 8, 2));
    let state = a.state(0).unwrap();
    assert_ne!(state.read, Some(state.write));
    assert_eq!(cache.used(), 2);
    cache.commit(&mut a, &SALT, &tokens, 10);
    assert_eq!(cache.used(), 1);
    // In between it is written in place.
    assert!(cache.grow(&mut a, 10, 1));
    let state = a.state(0).unwrap();
    assert_eq!(state.read, Some(state.write));
    cache.commit(&mut a, &SALT, &tokens, 11);
    for (len, hit) in [(20, 8), (9, 8), (8, 0), (7, 0)] {
        let mut b = RequestCache::default();
        let got = cache.admit(&mut b, &SALT, &tokens[..len], 64, false);
        assert_eq!(got, Some(hit), "{len} tokens");
        cache.free(&mut b);
    }
    cache.check_integrity([(&a, 11)].into_iter()).unwrap();
    cache.free(&mut a);
}

#[test]
fn a_hit_is_where_every_group_can_resume() {
    let mut cache = manager(toy_groups(), 8);
    let tokens: Vec<u32> = (0..16).collect();
    // States at 8 only; keys and values up to 15.
    let mut a = RequestCache::default();
    assert_eq!(
        cache.admit(&mut a, &SALT, &tokens[..15], 64, false),
        Some(0)
    );
    for (from, to) in [(0, 8), (8, 15)] {
        assert!(cache.grow(&mut a, from, to - from));
        cache.commit(&mut a, &SALT, &tokens, to);
    }
    cache.free(&mut a);
    let mut b = RequestCache::default();
    assert_eq!(cache.admit(&mut b, &SALT, &tokens, 64, false), Some(8));
    cache.check_integrity([(&b, 8)].into_iter()).unwrap();
    cache.free(&mut b);
}

#[test]
fn a_fork_shares_full_blocks_and_copies_the_rest() {
    let mut cache = manager(toy_groups(), 6);
    let tokens: Vec<u32> = (0..10).collect();
    let (mut a, _) = compute(&mut cache, &SALT, &tokens);
    let mut copies = Vec::new();
    let before = cache.used();
    let mut b = cache.fork(&a, 10, &mut copies).unwrap();
    // One partial block, once per attention group, and the live state.
    let groups: Vec<_> = copies.iter().map(|copy| copy.group).collect();
    assert_eq!((groups, cache.used() - before), (vec![0, 1, 2], 3));
    assert_eq!(copies[0].from, a.table(0)[2]);
    assert_eq!(copies[0].to, b.table(0)[2]);
    assert_eq!(a.table(0)[..2], b.table(0)[..2]);
    cache
        .check_integrity([(&a, 10), (&b, 10)].into_iter())
        .unwrap();
    // No room for a third: nothing changes.
    let mut c = cache.fork(&a, 10, &mut copies).unwrap();
    let mut d = cache.fork(&a, 10, &mut copies).unwrap();
    let (used, made) = (cache.used(), copies.len());
    let e = cache.fork(&a, 10, &mut copies);
    assert!(e.is_none() && cache.used() == used && copies.len() == made);
    for held in [&mut a, &mut b, &mut c, &mut d] {
        cache.free(held);
    }
    cache.check_integrity([].into_iter()).unwrap();
    // At a block boundary there is nothing to copy.
    let (mut a, _) = compute(&mut cache, &SALT, &tokens[..8]);
    copies.clear();
    let mut b = cache.fork(&a, 8, &mut copies).unwrap();
    assert!(copies.is_empty());
    for held in [&mut a, &mut b] {
        cache.free(held);
    }
}

#[test]
fn the_check_finds_lost_and_shared_blocks() {
    let mut cache = manager(full_group(), 4);
    let (mut a, _) = compute(&mut cache, &SALT, &[1; 6]);
    assert!(
        cache.check_integrity([].into_iter()).is_err(),
        "lost blocks"
    );
    let twice = [(&a, 6), (&a, 6)];
    assert!(
        cache.check_integrity(twice.into_iter()).is_err(),
        "held twice"
    );
    let mut copies = Vec::new();
    let mut b = cache.fork(&a, 6, &mut copies).unwrap();
    // As if the shared full block were still being filled.
    let partial = [(&a, 2), (&b, 6)];
    assert!(
        cache.check_integrity(partial.into_iter()).is_err(),
        "shared partial block"
    );
    let right = [(&a, 6), (&b, 6)];
    assert_eq!(cache.check_integrity(right.into_iter()), Ok(()));
    for held in [&mut a, &mut b] {
        cache.free(held);
    }
}
