//! Resolving what an image needs against a kernel's symbols.

use elf_tools::Avma;
use elf_tools::relocation::Need;
use elf_tools::symtab::name::{Reference, VersionedName};
use elf_tools::symtab::{Symbol, Symtab};

use crate::link::defaults::Defaults;
use crate::placement::Placement;
use crate::reason::Unresolved;

/// What a need resolves to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resolved {
    /// An address, and the size of what is there.
    Place { address: Avma, size: u64 },
    /// A distance in bytes.
    Distance(i64),
}

/// Resolves all needs; the result is parallel to `needs`.
pub(super) fn all(
    needs: &[Need],
    symtab: Option<&Symtab>,
    placement: &Placement,
    defaults: &mut Defaults,
) -> Vec<Result<Resolved, Unresolved>> {
    let Some(symtab) = symtab else {
        return needs
            .iter()
            .map(|need| Err(Unresolved::NoTable(need.reference.to_string())))
            .collect();
    };
    let mut resolver = Resolver {
        needs,
        symtab,
        placement,
        defaults,
    };
    needs.iter().map(|need| resolver.resolve(need)).collect()
}

struct Resolver<'a> {
    needs: &'a [Need],
    symtab: &'a Symtab,
    placement: &'a Placement,
    defaults: &'a mut Defaults,
}

impl<'a> Resolver<'a> {
    fn resolve(&mut self, need: &Need) -> Result<Resolved, Unresolved> {
        match &need.reference {
            Reference::Place(name) => self.place(name, need),
            Reference::OffsetOf { object, member } => self.distance(object, member, need),
        }
    }

    fn place(&mut self, name: &VersionedName, need: &Need) -> Result<Resolved, Unresolved> {
        match (self.symbol(name), &need.default) {
            (Err(Unresolved::Missing(_)), Some(default)) => {
                let address = self.default(name, default)?;
                Ok(Resolved::Place {
                    address,
                    size: default.len() as u64,
                })
            }
            (symbol, _) => {
                let symbol = symbol?;
                self.check_size(symbol, need)?;
                Ok(Resolved::Place {
                    address: self.address(symbol)?.offset(self.element(name)?),
                    size: symbol.size,
                })
            }
        }
    }

    fn distance(
        &mut self,
        object: &VersionedName,
        member: &VersionedName,
        need: &Need,
    ) -> Result<Resolved, Unresolved> {
        let object_name = object;
        let object = self.symbol(object_name)?;
        let from = self.address(object)?.offset(self.element(object_name)?);
        match (self.symbol(member), &need.default) {
            (Err(Unresolved::Missing(_)), Some(default)) => {
                let to = self.default(member, default)?;
                Ok(Resolved::Distance(to.distance_from(from)))
            }
            (found, _) => {
                let found = found?;
                self.check_size(found, need)?;
                if found.mapping != object.mapping {
                    return Err(Unresolved::Split(need.reference.to_string()));
                }
                let to = self.address(found)?.offset(self.element(member)?);
                Ok(Resolved::Distance(to.distance_from(from)))
            }
        }
    }

    /// Address of a default, in the element that is meant.
    fn default(&mut self, name: &VersionedName, value: &[u8]) -> Result<Avma, Unresolved> {
        let element = self.element(name)?;
        let first = self.defaults.place(&name.name, value, self.symtab);
        Ok(first?.offset(element))
    }

    /// Distance from the first elements of the arrays in a name to those that are meant.
    fn element(&self, name: &VersionedName) -> Result<i64, Unresolved> {
        // The first elements are meant almost always, and an array begins with its first: then there
        // is no name to take apart, which would cost as much as all else that is done for a need.
        if name.indices.iter().all(|&index| index == 0) {
            return Ok(0);
        }
        let mut distance = 0;
        let ends = name.name.match_indices("[]").map(|(at, _)| at);
        for (end, &index) in ends.zip(&name.indices).filter(|(_, index)| **index > 0) {
            let array = &name.name[..end];
            let (stride, count) = self.symtab.array(array).unwrap_or((0, 0));
            if index >= count {
                return Err(Unresolved::Count {
                    name: array.to_owned(),
                    wanted: index + 1,
                    found: count,
                });
            }
            distance += stride * index;
        }
        Ok(distance as i64)
    }

    fn symbol(&self, name: &VersionedName) -> Result<&'a Symbol, Unresolved> {
        let symbol = self
            .symtab
            .get(&name.name)
            .ok_or_else(|| Unresolved::Missing(name.name.clone()))?;
        if symbol.version != name.version {
            let (wanted, found) = (name.version, symbol.version);
            return Err(Unresolved::Version {
                name: name.name.clone(),
                wanted,
                found,
            });
        }
        Ok(symbol)
    }

    fn address(&self, symbol: &Symbol) -> Result<Avma, Unresolved> {
        let mapping = &self.symtab.mappings()[symbol.mapping].name;
        let base = self
            .placement
            .mapping(mapping)
            .ok_or_else(|| Unresolved::Unmapped {
                name: symbol.name.clone(),
                mapping: mapping.clone(),
            })?;
        Ok(base.offset(symbol.offset as i64))
    }

    /// Fields must be as wide as the image reads them, arrays as long as it may index them:
    /// `docs/abi.md`, section 3.
    fn check_size(&self, symbol: &Symbol, need: &Need) -> Result<(), Unresolved> {
        if need.size == 0 || symbol.name.ends_with("[]") {
            return Ok(());
        }
        let Some((_, found)) = self.symtab.array(&symbol.name) else {
            if need.size == symbol.size {
                return Ok(());
            }
            let name = symbol.name.clone();
            return Err(Unresolved::Size {
                name,
                wanted: need.size,
                found: symbol.size,
            });
        };
        let element = format!("{}[]", symbol.name);
        let stride = self
            .needs
            .iter()
            .find(|other| other.reference.target().name == element)
            .map_or(0, |n| n.size);
        let wanted = need.size.checked_div(stride).unwrap_or(0);
        if wanted > found {
            return Err(Unresolved::Count {
                name: symbol.name.clone(),
                wanted,
                found,
            });
        }
        Ok(())
    }
}
