//! [`PrefixIndex`]: which prefixes are cached, and in which blocks.
//!
//! Owns: the tree of known prefixes. A node stands for a prefix of whole blocks: its parent's prefix plus one block of
//! tokens, under one salt. Must not know: requests, reference counts of blocks.
//!
//! Invariant: the key of a node is exact, (parent, salt, tokens of the block), compared in full; a hash only picks the
//! bucket, so no two prefixes can be taken for each other. A node lives while a block, a child or a request counts on it.
//! All memory is had at the start.

use super::pool::BlockId;
use std::hash::{BuildHasher, RandomState};

/// Requests share prefixes only under the same salt.
pub(crate) type Salt = [u8; 32];

/// A prefix of whole blocks: the cache id that the key of the next block names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(u32);

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Node {
    parent: Option<NodeId>,
    salt: Salt,
    /// Blocks, children and requests that count on this node; 0: unused.
    refs: u32,
    /// Next in the bucket, or next unused node.
    next: u32,
}

/// The tree of cached prefixes.
#[derive(Debug)]
pub(crate) struct PrefixIndex {
    nodes: Vec<Node>,
    /// Tokens of each node's last block, `[nodes, block_size]`.
    tokens: Vec<u32>,
    /// Block that holds the node's last block of tokens (or the state after it) in each group, `[nodes, groups]`.
    blocks: Vec<BlockId>,
    buckets: Vec<u32>,
    hasher: RandomState,
    unused: u32,
    block_size: usize,
    groups: usize,
}

impl PrefixIndex {
    /// An empty tree that can hold `capacity` prefixes.
    pub(crate) fn new(capacity: usize, block_size: usize, groups: usize) -> Self {
        let capacity = capacity.min(NONE as usize - 1);
        let nodes = (0..capacity as u32).map(|i| Node {
            parent: None,
            salt: [0; 32],
            refs: 0,
            next: if i + 1 < capacity as u32 { i + 1 } else { NONE },
        });
        Self {
            nodes: nodes.collect(),
            tokens: vec![0; capacity * block_size],
            blocks: vec![NONE; capacity * groups],
            buckets: vec![NONE; capacity.next_power_of_two()],
            hasher: RandomState::new(),
            unused: if capacity == 0 { NONE } else { 0 },
            block_size,
            groups,
        }
    }

    /// The prefix `parent` plus `tokens`, if known. `tokens`: `[block_size]`.
    pub(crate) fn find(
        &self,
        parent: Option<NodeId>,
        salt: &Salt,
        tokens: &[u32],
    ) -> Option<NodeId> {
        let mut at = self.buckets[self.bucket(parent, salt, tokens)];
        while at != NONE {
            let node = &self.nodes[at as usize];
            if node.parent == parent && node.salt == *salt && self.tokens_of(at) == tokens {
                return Some(NodeId(at));
            }
            at = node.next;
        }
        None
    }

    /// The prefix `parent` plus `tokens`, made if unknown, with one more reference. None if the tree is full.
    pub(crate) fn intern(
        &mut self,
        parent: Option<NodeId>,
        salt: &Salt,
        tokens: &[u32],
    ) -> Option<NodeId> {
        if let Some(node) = self.find(parent, salt, tokens) {
            self.retain(node);
            return Some(node);
        }
        let at = self.unused;
        if at == NONE {
            return None;
        }
        let bucket = self.bucket(parent, salt, tokens);
        let node = &mut self.nodes[at as usize];
        self.unused = node.next;
        *node = Node {
            parent,
            salt: *salt,
            refs: 1,
            next: self.buckets[bucket],
        };
        self.buckets[bucket] = at;
        let start = at as usize * self.block_size;
        self.tokens[start..start + self.block_size].copy_from_slice(tokens);
        if let Some(parent) = parent {
            self.retain(parent);
        }
        Some(NodeId(at))
    }

    /// One more reference.
    pub(crate) fn retain(&mut self, node: NodeId) {
        self.nodes[node.0 as usize].refs += 1;
    }

    /// One reference less; what nothing counts on any more is forgotten, upwards.
    pub(crate) fn release(&mut self, node: NodeId) {
        let mut at = Some(node);
        while let Some(NodeId(id)) = at {
            let node = &mut self.nodes[id as usize];
            debug_assert!(node.refs > 0, "prefix {id} released once too often");
            node.refs -= 1;
            if node.refs > 0 {
                return;
            }
            at = node.parent;
            self.remove(id);
        }
    }

    /// The block of `node` in `group`.
    pub(crate) fn block(&self, node: NodeId, group: usize) -> Option<BlockId> {
        let block = self.blocks[node.0 as usize * self.groups + group];
        (block != NONE).then_some(block)
    }

    /// `block` of `group` holds `node` from now on; the block counts on the node.
    pub(crate) fn attach(&mut self, node: NodeId, group: usize, block: BlockId) {
        self.blocks[node.0 as usize * self.groups + group] = block;
        self.retain(node);
    }

    /// The block of `group` holds `node` no longer.
    pub(crate) fn detach(&mut self, node: NodeId, group: usize) {
        self.blocks[node.0 as usize * self.groups + group] = NONE;
        self.release(node);
    }

    /// Counts references anew (`requests`: the nodes that requests count on).
    ///
    /// # Errors
    /// The first node whose count is wrong.
    pub(crate) fn check(&self, requests: impl Iterator<Item = NodeId>) -> Result<(), String> {
        let mut refs = vec![0; self.nodes.len()];
        requests.for_each(|node| refs[node.0 as usize] += 1);
        for (i, node) in self.nodes.iter().enumerate().filter(|(_, n)| n.refs > 0) {
            if let Some(NodeId(parent)) = node.parent {
                refs[parent as usize] += 1;
            }
            let blocks = &self.blocks[i * self.groups..(i + 1) * self.groups];
            refs[i] += blocks.iter().filter(|&&block| block != NONE).count() as u32;
        }
        match (0..refs.len()).find(|&i| refs[i] != self.nodes[i].refs) {
            Some(i) => Err(format!(
                "prefix {i} counts {} references, but has {}",
                self.nodes[i].refs, refs[i]
            )),
            None => Ok(()),
        }
    }

    fn remove(&mut self, id: u32) {
        let Node {
            parent, salt, next, ..
        } = self.nodes[id as usize];
        let bucket = self.bucket(parent, &salt, self.tokens_of(id));
        if self.buckets[bucket] == id {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while self.nodes[at as usize].next != id {
                at = self.nodes[at as usize].next;
            }
            self.nodes[at as usize].next = next;
        }
        self.nodes[id as usize].next = self.unused;
        self.unused = id;
    }

    fn tokens_of(&self, id: u32) -> &[u32] {
        &self.tokens[id as usize * self.block_size..(id as usize + 1) * self.block_size]
    }

    fn bucket(&self, parent: Option<NodeId>, salt: &Salt, tokens: &[u32]) -> usize {
        let hash = self.hasher.hash_one((parent, salt, tokens));
        hash as usize & (self.buckets.len() - 1)
    }
}
