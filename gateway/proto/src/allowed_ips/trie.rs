//! Prefixes of one address family: a trie whose nodes decide on six bits each, in a few arrays.
//!
//! Enters: keys (addresses as integers), prefix lengths and owners. Leaves: the owner of the longest prefix that
//! holds a key. Never does: allocate or write on lookup, or hold pointers; nodes name each other by index, so a
//! clone is a few copies of memory.
//!
//! A node stands at a multiple of six bits (see [`super::key`]). It holds the prefixes that end within its six bits,
//! and its children stand where its six bits lead; of each kind a bitmap says which there are, and they lie in one
//! run, so that the number of bits set before one is its place. Nodes that would neither hold a prefix nor branch are
//! left out, and each node knows the bits above it. So 130,000 prefixes of either family are three or four nodes deep.
//!
//! Prefixes of one owner are linked in a list, so that an owner's prefixes are listed and removed without a scan.

use super::Owner;
use super::blocks::Blocks;
use super::key::{Key, STRIDE};

const NIL: u32 = u32::MAX;
/// The node at bit zero, once there is a prefix.
const ROOT: u32 = 0;

/// For each six bits the prefixes that hold them, as bits of [`Node::prefixes`].
const HOLDERS: [u64; 1 << STRIDE] = {
    let mut holders = [0; 1 << STRIDE];
    let mut chunk = 0;
    while chunk < holders.len() {
        let mut len = 0;
        while len < STRIDE {
            holders[chunk] |= 1_u64 << ((1 << len) | (chunk >> (STRIDE - len)));
            len += 1;
        }
        chunk += 1;
    }
    holders
};

#[derive(Debug, Clone, Copy)]
struct Node<K> {
    /// The bits above it; the others are zero.
    key: K,
    /// Bit `1 << n | value`: the prefix of `n` bits more than `level`, which are `value`. Longer ones have higher bits.
    prefixes: u64,
    /// Bit `value`: the child where the six bits are `value`.
    children: u64,
    first_prefix: u32,
    first_child: u32,
    /// Its place: see [`super::key`].
    level: u8,
}

impl<K: Key> Node<K> {
    fn bare(key: K, level: u8) -> Self {
        Self { key: key.above(level), prefixes: 0, children: 0, first_prefix: NIL, first_child: NIL, level }
    }

    #[inline]
    fn child(&self, chunk: usize) -> Option<u32> {
        (self.children & (1 << chunk) != 0).then(|| self.first_child + below(self.children, chunk) as u32)
    }
}

/// How many bits are set below one.
#[inline]
fn below(bits: u64, bit: usize) -> usize {
    (bits & ((1 << bit) - 1)).count_ones() as usize
}

#[derive(Debug, Clone, Copy)]
struct Owned<O> {
    owner: O,
    entry: u32,
}

/// A prefix in its owner's list.
#[derive(Debug, Clone, Copy)]
struct Entry<K, O> {
    key: K,
    before: u32,
    after: u32,
    owner: O,
    len: u8,
}

/// All prefixes of a family.
#[derive(Debug, Clone)]
pub(super) struct Trie<K, O> {
    nodes: Blocks<Node<K>>,
    prefixes: Blocks<Owned<O>>,
    entries: Vec<Entry<K, O>>,
    free_entries: Vec<u32>,
    /// The first entry of each owner, by its slot.
    heads: Vec<u32>,
    len: usize,
}

impl<K: Key, O: Owner> Trie<K, O> {
    pub(super) const fn new() -> Self {
        Self {
            nodes: Blocks::new(),
            prefixes: Blocks::new(),
            entries: Vec::new(),
            free_entries: Vec::new(),
            heads: Vec::new(),
            len: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn lookup(&self, key: K) -> Option<O> {
        Some(self.find(key)?.owner)
    }

    /// The length of the longest prefix that holds a key.
    pub(super) fn len_of(&self, key: K) -> Option<u8> {
        let entry = self.find(key)?.entry;
        Some(self.entries.get(entry as usize)?.len)
    }

    #[inline]
    fn find(&self, key: K) -> Option<&Owned<O>> {
        let mut node = self.nodes.at(ROOT)?;
        let mut best = None;
        while key.common(node.key) >= node.level {
            let chunk = key.chunk(node.level);
            let holders = node.prefixes & HOLDERS[chunk];
            if holders != 0 {
                best = Some((node, holders));
            }
            let Some(child) = node.child(chunk) else { break };
            node = self.nodes.at(child)?;
        }
        let (node, holders) = best?;
        let place = below(node.prefixes, holders.ilog2() as usize);
        self.prefixes.at(node.first_prefix + place as u32)
    }

    /// Gives a prefix to an owner and returns the one that had it.
    pub(super) fn insert(&mut self, key: K, len: u8, owner: O) -> Option<O> {
        let key = key.above(len + K::PAD);
        let (level, bit) = place_of(key, len);
        let at = self.grow_to(key, level);
        let Node { prefixes, first_prefix, .. } = *self.nodes.at_mut(at);
        let place = below(prefixes, bit);
        if prefixes & (1 << bit) == 0 {
            let entry = self.list(key, len, owner);
            let first =
                self.prefixes.insert(first_prefix, prefixes.count_ones() as usize, place, Owned { owner, entry });
            let node = self.nodes.at_mut(at);
            node.prefixes |= 1 << bit;
            node.first_prefix = first;
            return None;
        }
        let Owned { owner: previous, entry } = *self.prefixes.at_mut(first_prefix + place as u32);
        if previous != owner {
            self.unlist(entry);
            let entry = self.list(key, len, owner);
            *self.prefixes.at_mut(first_prefix + place as u32) = Owned { owner, entry };
        }
        Some(previous)
    }

    /// Takes a prefix from an owner; false when it does not own it.
    pub(super) fn remove(&mut self, key: K, len: u8, owner: O) -> bool {
        let key = key.above(len + K::PAD);
        let (level, bit) = place_of(key, len);
        let (mut parent, mut at) = (NIL, ROOT);
        let node = loop {
            let Some(&node) = self.nodes.at(at) else { return false };
            if node.level > level || key.common(node.key) < node.level {
                return false;
            }
            if node.level == level {
                break node;
            }
            let Some(child) = node.child(key.chunk(node.level)) else { return false };
            (parent, at) = (at, child);
        };
        let place = below(node.prefixes, bit);
        if node.prefixes & (1 << bit) == 0 {
            return false;
        }
        let Owned { owner: actual, entry } = *self.prefixes.at_mut(node.first_prefix + place as u32);
        if actual != owner {
            return false;
        }
        self.unlist(entry);
        let first = self.prefixes.remove(node.first_prefix, node.prefixes.count_ones() as usize, place);
        let node = self.nodes.at_mut(at);
        node.prefixes &= !(1 << bit);
        node.first_prefix = first;
        self.prune(parent, at);
        true
    }

    /// Some prefix of an owner.
    pub(super) fn first_of(&self, owner: O) -> Option<(K, u8)> {
        self.of(owner).next()
    }

    /// The prefixes of an owner.
    pub(super) fn of(&self, owner: O) -> impl Iterator<Item = (K, u8)> + '_ {
        let mut at = self.heads.get(owner.slot()).copied().unwrap_or(NIL);
        std::iter::from_fn(move || {
            loop {
                let entry = self.entries.get(at as usize)?;
                at = entry.after;
                // An earlier owner of the slot may still be listed.
                if entry.owner == owner {
                    return Some((entry.key, entry.len));
                }
            }
        })
    }

    /// The node at a level on the way of a key, made when it is not there.
    fn grow_to(&mut self, key: K, level: u8) -> u32 {
        if self.nodes.at(ROOT).is_none() {
            self.nodes.insert(ROOT, 0, 0, Node::bare(key, 0));
        }
        let mut at = ROOT;
        loop {
            let node = *self.nodes.at_mut(at);
            if node.level == level {
                return at;
            }
            let chunk = key.chunk(node.level);
            let Some(child) = node.child(chunk) else {
                let (count, place) = (node.children.count_ones() as usize, below(node.children, chunk));
                let first = self.nodes.insert(node.first_child, count, place, Node::bare(key, level));
                let node = self.nodes.at_mut(at);
                node.children |= 1 << chunk;
                node.first_child = first;
                return first + place as u32;
            };
            let below = *self.nodes.at_mut(child);
            let common = key.common(below.key).min(below.level).min(level);
            let common = common - common % STRIDE;
            if common < below.level {
                // A node between the two, where the ways part or the prefix ends.
                let first_child = self.nodes.insert(NIL, 0, 0, below);
                let children = 1 << below.key.chunk(common);
                *self.nodes.at_mut(child) = Node { children, first_child, ..Node::bare(key, common) };
            }
            at = child;
        }
    }

    /// Takes a node away when it neither holds a prefix nor branches, and then its parent likewise.
    fn prune(&mut self, parent: u32, at: u32) {
        let Node { key, prefixes, children, .. } = *self.nodes.at_mut(at);
        if parent == NIL || prefixes != 0 {
            return;
        }
        if children != 0 {
            self.yield_to_only_child(at);
            return;
        }
        let node = *self.nodes.at_mut(parent);
        let chunk = key.chunk(node.level);
        let (count, place) = (node.children.count_ones() as usize, below(node.children, chunk));
        let first = self.nodes.remove(node.first_child, count, place);
        let node = self.nodes.at_mut(parent);
        node.children &= !(1 << chunk);
        node.first_child = first;
        if parent != ROOT && node.prefixes == 0 {
            self.yield_to_only_child(parent);
        }
    }

    /// Puts a node's child in its place, if it has one alone.
    fn yield_to_only_child(&mut self, at: u32) {
        let Node { children, first_child, .. } = *self.nodes.at_mut(at);
        if children.count_ones() == 1 {
            *self.nodes.at_mut(at) = *self.nodes.at_mut(first_child);
            self.nodes.remove(first_child, 1, 0);
        }
    }

    /// Puts a prefix into its owner's list.
    fn list(&mut self, key: K, len: u8, owner: O) -> u32 {
        self.len += 1;
        let slot = owner.slot();
        if self.heads.len() <= slot {
            self.heads.resize(slot + 1, NIL);
        }
        let after = self.heads[slot];
        let entry = Entry { key, before: NIL, after, owner, len };
        let at = match self.free_entries.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.heads[slot] = at;
        if after != NIL {
            self.entries[after as usize].before = at;
        }
        at
    }

    /// Takes a prefix out of its owner's list.
    fn unlist(&mut self, at: u32) {
        self.len -= 1;
        let Entry { before, after, owner, .. } = self.entries[at as usize];
        if before == NIL {
            self.heads[owner.slot()] = after;
        } else {
            self.entries[before as usize].after = after;
        }
        if after != NIL {
            self.entries[after as usize].before = before;
        }
        self.free_entries.push(at);
    }
}

/// Where a prefix ends: the level of its node, and its bit of [`Node::prefixes`].
fn place_of<K: Key>(key: K, len: u8) -> (u8, usize) {
    let end = len + K::PAD;
    let extra = end % STRIDE;
    let level = end - extra;
    (level, (1 << extra) | (key.chunk(level) >> (STRIDE - extra)))
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::PeerId;

    const OWNER: PeerId = PeerId { slot: 0, generation: 0 };

    /// Nodes from the root to the prefix's own.
    fn depth<K: Key>(trie: &Trie<K, PeerId>, key: K) -> usize {
        let (mut at, mut depth) = (Some(ROOT), 0);
        while let Some(node) = at.and_then(|at| trie.nodes.at(at)) {
            depth += 1;
            at = node.child(key.chunk(node.level));
        }
        depth
    }

    fn scattered(rng: &mut ChaCha20Rng) -> Vec<(u128, u8)> {
        (0..20_000).map(|_| (rng.random::<u128>() & (u128::MAX << 64), [48, 56, 64][rng.random_range(0..3)])).collect()
    }

    #[test]
    fn prefixes_that_come_and_go_take_no_more_memory_the_second_time() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut prefixes = scattered(&mut rng);
        let mut trie = Trie::new();
        let mut sizes = Vec::new();
        for _ in 0..6 {
            prefixes.iter().for_each(|(key, len)| _ = trie.insert(*key, *len, OWNER));
            sizes.push((trie.nodes.size(), trie.prefixes.size(), trie.entries.len()));
            prefixes.shuffle(&mut rng);
            prefixes.iter().for_each(|(key, len)| _ = trie.remove(*key, *len, OWNER));
            assert_eq!(trie.len(), 0);
            let root = trie.nodes.at(ROOT).expect("it stays");
            assert_eq!((root.prefixes, root.children), (0, 0), "nothing is left behind");
        }
        let [first, last] = [sizes[0], sizes[5]];
        assert!(last.0 <= first.0 * 5 / 4 && last.1 <= first.1 * 5 / 4 && last.2 == first.2, "{sizes:?}");
        assert!(first.0 < 4 * prefixes.len(), "{sizes:?}");
    }

    #[test]
    fn a_hundred_and_thirty_thousand_prefixes_are_a_few_nodes_deep() {
        let (mut v4, mut v6, mut sparse) = (Trie::<u32, _>::new(), Trie::<u128, _>::new(), Trie::<u128, _>::new());
        let mut rng = ChaCha20Rng::from_seed([2; 32]);
        for i in 0..130_000_u32 {
            v4.insert(0x0a00_0000 + i, 32, OWNER);
            v6.insert((0xfd << 120) + u128::from(i), 128, OWNER);
            sparse.insert(rng.random(), 64, OWNER);
        }
        assert!((0..130_000).all(|i| depth(&v4, 0x0a00_0000 + i) <= 5));
        assert!((0..130_000_u32).all(|i| depth(&v6, (0xfd << 120) + u128::from(i)) <= 5));
        let depths: usize = sparse.of(OWNER).map(|(key, _)| depth(&sparse, key)).sum();
        assert!(depths < 5 * 130_000, "{depths}");
    }
}
