//! [`BlockPool`]: the blocks of one cache group: reference counts, and the free list in order of last use.
//!
//! Owns: who counts on a block, and which free block is reused next. Must not know: requests, tokens, other groups.
//!
//! Invariant: a block is in the free list exactly when nothing refers to it. A free block may still hold a cached prefix;
//! it is forgotten when the block is taken.

use super::key::NodeId;

/// A block (or state slot) of one group.
pub(crate) type BlockId = u32;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Block {
    refs: u32,
    prev: u32,
    next: u32,
    /// The prefix whose keys, values or state it holds.
    node: Option<NodeId>,
}

/// All blocks of one group. Every operation takes constant time and no memory.
#[derive(Debug)]
pub(crate) struct BlockPool {
    blocks: Vec<Block>,
    head: u32,
    tail: u32,
    free: usize,
}

impl BlockPool {
    /// A pool of `count` free blocks.
    pub(crate) fn new(count: usize) -> Self {
        let unlinked = Block {
            refs: 0,
            prev: NONE,
            next: NONE,
            node: None,
        };
        let mut pool = Self {
            blocks: vec![unlinked; count],
            head: NONE,
            tail: NONE,
            free: 0,
        };
        (0..count as u32).for_each(|id| pool.push_back(id));
        pool
    }

    /// Blocks that nothing refers to.
    pub(crate) fn free(&self) -> usize {
        self.free
    }

    /// All blocks.
    pub(crate) fn total(&self) -> usize {
        self.blocks.len()
    }

    /// References to `id`.
    pub(crate) fn refs(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].refs
    }

    /// The prefix that `id` holds.
    pub(crate) fn node(&self, id: BlockId) -> Option<NodeId> {
        self.blocks[id as usize].node
    }

    /// Takes the free block that was used longest ago, with one reference; also the prefix it held until now.
    pub(crate) fn take(&mut self) -> Option<(BlockId, Option<NodeId>)> {
        let id = self.head;
        if id == NONE {
            return None;
        }
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        block.refs = 1;
        Some((id, block.node.take()))
    }

    /// One more reference to `id`.
    pub(crate) fn touch(&mut self, id: BlockId) {
        if self.blocks[id as usize].refs == 0 {
            self.unlink(id);
        }
        self.blocks[id as usize].refs += 1;
    }

    /// One reference less. A block that becomes free goes to the end of the free list, or to its head if it holds no
    /// prefix, so that nothing cached dies for it.
    pub(crate) fn release(&mut self, id: BlockId) {
        let block = &mut self.blocks[id as usize];
        debug_assert!(block.refs > 0, "block {id} released once too often");
        block.refs -= 1;
        if block.refs == 0 {
            if block.node.is_some() {
                self.push_back(id);
            } else {
                self.push_front(id);
            }
        }
    }

    /// `id` holds prefix `node` from now on.
    pub(crate) fn publish(&mut self, id: BlockId, node: NodeId) {
        self.blocks[id as usize].node = Some(node);
    }

    /// The free list, next victim first.
    pub(crate) fn free_list(&self) -> impl Iterator<Item = BlockId> {
        let mut at = self.head;
        // At most all blocks, so that a damaged list still ends.
        (0..self.blocks.len()).map_while(move |_| {
            let id = at;
            at = self.blocks.get(id as usize)?.next;
            Some(id)
        })
    }

    fn push_back(&mut self, id: BlockId) {
        (self.blocks[id as usize].prev, self.blocks[id as usize].next) = (self.tail, NONE);
        match self.tail {
            NONE => self.head = id,
            tail => self.blocks[tail as usize].next = id,
        }
        self.tail = id;
        self.free += 1;
    }

    fn push_front(&mut self, id: BlockId) {
        (self.blocks[id as usize].prev, self.blocks[id as usize].next) = (NONE, self.head);
        match self.head {
            NONE => self.tail = id,
            head => self.blocks[head as usize].prev = id,
        }
        self.head = id;
        self.free += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let Block { prev, next, .. } = self.blocks[id as usize];
        match prev {
            NONE => self.head = next,
            prev => self.blocks[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.blocks[next as usize].prev = prev,
        }
        self.free -= 1;
    }
}
