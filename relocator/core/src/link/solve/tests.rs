//! Systems whose best solutions are known, by hand or by trying all.

use elf_tools::Svma;
use elf_tools::relocation::{OperandField, RightHandSide, Term, Width};
use proptest::prelude::*;

use super::system::{Constant, Equation, Solution, solve};
use super::tableau::Work;
use super::*;

/// Width, value.
type Constants<'a> = &'a [(Width, i64)];
/// Terms, total.
type Constraints = Vec<(Vec<(u32, i64)>, i64)>;

fn terms(constraint: &[(u32, i64)]) -> Vec<Term> {
    constraint
        .iter()
        .map(|&(operand_field, coefficient)| Term {
            operand_field,
            coefficient,
        })
        .collect()
}

fn solve_with(
    constants: Constants<'_>,
    constraints: &Constraints,
    movable: &mut dyn FnMut(u32) -> bool,
) -> Result<Solution, Fault> {
    let constants: Vec<Constant> = constants
        .iter()
        .map(|&(width, value)| Constant { width, value })
        .collect();
    let terms: Vec<Vec<Term>> = constraints
        .iter()
        .map(|constraint| terms(&constraint.0))
        .collect();
    let equations: Vec<Equation<'_>> = terms
        .iter()
        .zip(constraints)
        .map(|(terms, constraint)| Equation {
            terms,
            total: constraint.1,
        })
        .collect();
    solve(&constants, &equations, movable, &mut Work(ATTEMPT))
}

/// Solves, and checks that every constraint holds and that out-of-range operands are exactly those
/// declared.
fn solved(constants: Constants<'_>, constraints: &Constraints) -> Result<Solution, Fault> {
    let solution = solve_with(constants, constraints, &mut |_| true)?;
    check(constants, constraints, &solution);
    Ok(solution)
}

fn check(constants: Constants<'_>, constraints: &Constraints, solution: &Solution) {
    let mut values: Vec<i64> = constants.iter().map(|constant| constant.1).collect();
    for &(operand_field, value) in &solution.changes {
        assert_ne!(values[operand_field as usize], value, "no change");
        values[operand_field as usize] = value;
    }
    for (terms, total) in constraints {
        let total_now: i64 = terms.iter().map(|t| t.1 * values[t.0 as usize]).sum();
        assert_eq!(total_now, *total, "{terms:?} with {values:?}");
    }
    for ((operand_field, &value), constant) in (0..).zip(&values).zip(constants) {
        assert!(i32::try_from(value).is_ok(), "{value:#x} fits nothing");
        let fits = constant.0.fits(value);
        assert_eq!(
            !fits,
            solution.out_of_range.contains(&operand_field),
            "operand field {operand_field}"
        );
    }
}

use Width::{I8, I32};

#[test]
fn one_constant_takes_what_moves_everything() {
    // One base, many fields, all 8 bytes further on.
    let constants = [
        (I32, 0x100),
        (I8, 4),
        (I8, 8),
        (I32, 0x80),
        (Width::None, 0),
    ];
    let constraints = (1..5).map(|field| {
        let value = constants[field as usize].1;
        (vec![(0, 1), (field, 1)], 0x100 + value + 8)
    });
    let solution = solved(&constants, &constraints.collect()).unwrap();
    assert_eq!(solution.changes, [(0, 0x108)]);
}

#[test]
fn one_field_that_moves_moves_alone() {
    let constants = [(I32, 0x100), (I8, 4), (I8, 8), (I32, 0x80)];
    for moved in 1..4u32 {
        let constraints = (1..4u32).map(|field| {
            let by = if field == moved { 16 } else { 0 };
            let value = constants[field as usize].1;
            (vec![(0, 1), (field, 1)], 0x100 + value + by)
        });
        let solution = solved(&constants, &constraints.collect()).unwrap();
        let value = constants[moved as usize].1;
        assert_eq!(solution.changes, [(moved, value + 16)]);
    }
}

#[test]
fn what_cannot_be_stored_is_out_of_range_and_only_that() {
    // The base cannot move, since the first field is where it was; the second has no displacement
    // to take the 8.
    let constants = [(I32, 0x100), (I8, 4), (Width::None, 0)];
    let constraints = vec![
        (vec![(0, 1)], 0x100),
        (vec![(0, 1), (1, 1)], 0x104),
        (vec![(0, 1), (2, 1)], 0x108),
    ];
    let solution = solved(&constants, &constraints).unwrap();
    assert_eq!(
        (solution.changes, solution.out_of_range),
        (vec![(2, 8)], vec![2])
    );
}

#[test]
fn of_two_possible_operands_out_of_range_the_movable_one_is_taken() {
    let constants = [(Width::None, 0), (Width::None, 0)];
    let constraints = vec![(vec![(0, 1), (1, -1)], 8)];
    for (stuck, expected) in [(0, (1, -8)), (1, (0, 8))] {
        let solution = solve_with(&constants, &constraints, &mut |operand_field| {
            operand_field != stuck
        })
        .unwrap();
        assert_eq!(solution.changes, [expected]);
    }
    let neither = solve_with(&constants, &constraints, &mut |_| false);
    assert_eq!(neither, Err(Fault::Contradiction));
}

#[test]
fn coefficients_divide_or_there_is_no_solution() {
    let constants = [(I32, 0xe8), (I32, 0)];
    let constraints = vec![(vec![(0, 16)], 16 * 0xf8)];
    assert_eq!(
        solved(&constants, &constraints).unwrap().changes,
        [(0, 0xf8)]
    );
    let odd = vec![(vec![(0, 16)], 16 * 0xf8 + 8)];
    assert_eq!(solved(&constants, &odd), Err(Fault::Contradiction));
    // 3a + 5b = 1 has solutions, but none that a division alone finds.
    let mixed = vec![(vec![(0, 3), (1, 5)], 3 * 0xe8 + 1)];
    assert_eq!(solved(&constants, &mixed).unwrap().changes.len(), 2);
}

#[test]
fn rows_that_no_value_satisfies_do_not_hide_the_fewest() {
    // With the second constant as the only operand out of range, 2b + 3c would be -1 and 0, for
    // which trying values has no end.
    let constants = [
        (Width::None, 0),
        (Width::None, 0),
        (I32, 0),
        (Width::None, 0),
    ];
    let constraints = vec![
        (vec![(0, 1), (3, 1)], -1),
        (vec![(1, 2), (2, 3), (3, 1)], -1),
    ];
    let solution = solved(&constants, &constraints).unwrap();
    assert_eq!((solution.out_of_range, solution.fewest), (vec![3], true));
    // A byte with every multiple of 16 is no better than another one.
    let constants = [(Width::None, 0), (I8, 2), (I8, 2), (I32, 0)];
    let constraints = vec![
        (vec![(0, 1), (1, -16), (3, -1)], -8 - 32),
        (vec![(2, 16), (1, -16), (3, -1)], 0),
    ];
    let solution = solved(&constants, &constraints).unwrap();
    assert_eq!((solution.out_of_range, solution.fewest), (vec![0], true));
}

#[test]
fn bytes_keep_to_their_range() {
    // Two fields 240 bytes apart that were 100 apart: one byte cannot do it, two can.
    let constants = [(I8, 0), (I8, 100)];
    let constraints = vec![(vec![(0, -1), (1, 1)], 240)];
    let solution = solved(&constants, &constraints).unwrap();
    assert_eq!(
        (solution.out_of_range.len(), solution.changes.len()),
        (0, 2)
    );
    let constraints = vec![(vec![(0, -1), (1, 1)], 256)];
    assert_eq!(
        solved(&constants, &constraints).unwrap().out_of_range.len(),
        1
    );
}

#[test]
fn hostile_systems_end_with_a_reason() {
    let words = vec![(I32, 0); 100_000];
    // A chain in which everything depends on everything.
    let chain: Constraints = (0..99_999)
        .map(|operand_field| {
            (
                vec![(operand_field, 1), (operand_field + 1, 1)],
                1 + i64::from(operand_field),
            )
        })
        .collect();
    let begun = std::time::Instant::now();
    let result = solve_with(&words, &chain, &mut |_| true);
    assert_eq!(result, Err(Fault::Exhausted));
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    // Bytes that all depend on each other, in a search as deep as it can be.
    let bytes = vec![(I8, 0); 3000];
    let every: Vec<(u32, i64)> = (0..3000)
        .map(|operand_field| (operand_field, 1 + i64::from(operand_field % 3)))
        .collect();
    let begun = std::time::Instant::now();
    let result = solve_with(&bytes, &vec![(every, 200_001)], &mut |_| true);
    assert!(
        result.is_ok() || result == Err(Fault::Exhausted),
        "{result:?}"
    );
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let large = vec![
        (vec![(0, i64::MAX), (1, 2)], 1),
        (vec![(0, 3), (1, i64::MAX)], 1),
    ];
    assert!(solve_with(&words, &large, &mut |_| true).is_err());
    let beyond = vec![(vec![(0, 1)], 1 << 40)];
    assert_eq!(solved(&words, &beyond), Err(Fault::Contradiction));
}

/// Functions whose constraints are all about one word.
fn functions(wanted: &[&[i64]]) -> (Solution, Vec<Refusal>) {
    let operand_field = OperandField {
        place: Svma(0x10),
        width: I32,
    };
    let constraints: Vec<Constraint> = wanted
        .iter()
        .flat_map(|totals| totals.iter())
        .map(|_| Constraint {
            site: Svma(0x10),
            right_hand_side: RightHandSide::Address,
            need: 0,
            addend: 0,
            terms: terms(&[(0, 1)]),
        })
        .collect();
    let totals: Vec<Option<i64>> = wanted.concat().into_iter().map(Some).collect();
    let numbers: Vec<u32> = (0..constraints.len() as u32).collect();
    let mut rest = numbers.as_slice();
    let uses: Vec<(usize, &[u32])> = (0..)
        .zip(wanted)
        .map(|(index, totals)| {
            let (own, others) = rest.split_at(totals.len());
            rest = others;
            (index, own)
        })
        .collect();
    let relocations = Relocations {
        operand_fields: vec![operand_field],
        constraints,
        ..Relocations::default()
    };
    let problem = Problem {
        relocations: &relocations,
        values: &[Some(0)],
        totals: &totals,
        functions: &uses,
    };
    problem.solve(&mut |_| true)
}

#[test]
fn a_function_that_contradicts_itself_or_earlier_ones_is_refused_alone() {
    let (solution, refused) = functions(&[&[8], &[1, 1, 2, 1], &[16, 16], &[8, 8]]);
    assert_eq!(solution.changes, [(0, 8)]);
    let refusals = [(1, 1), (2, 5)].map(|(function, constraint)| Refusal {
        function,
        constraint,
        fault: Fault::Contradiction,
    });
    assert_eq!(refused, refusals);
    // On its own, the one that contradicts itself is refused where it does.
    let (solution, refused) = functions(&[&[1, 1, 2, 1], &[16]]);
    assert_eq!(
        (solution.changes, refused[0].constraint),
        (vec![(0, 16)], 2)
    );
}

/// Fewest out-of-range operands by trying every change of every constant within a bound.
fn fewest_by_trying(
    constants: Constants<'_>,
    constraints: &Constraints,
    bound: i64,
) -> Option<usize> {
    let mut values: Vec<i64> = constants.iter().map(|c| c.1 - bound).collect();
    let mut best: Option<usize> = None;
    loop {
        let holds = |(terms, total): &(Vec<(u32, i64)>, i64)| {
            terms
                .iter()
                .map(|t| t.1 * values[t.0 as usize])
                .sum::<i64>()
                == *total
        };
        if constraints.iter().all(holds) {
            let pairs = values.iter().zip(constants);
            let out_of_range = pairs.filter(|(value, c)| !c.0.fits(**value)).count();
            best = Some(best.map_or(out_of_range, |best| best.min(out_of_range)));
        }
        // Counts up, the first constant fastest.
        let next = (0..values.len())
            .find(|&operand_field| values[operand_field] < constants[operand_field].1 + bound);
        let Some(next) = next else {
            return best;
        };
        values[next] += 1;
        for operand_field in 0..next {
            values[operand_field] = constants[operand_field].1 - bound;
        }
    }
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![2 => Just(Width::None), 2 => Just(I8), 1 => Just(I32)]
}

fn systems(
    operand_fields: u32,
    constraints: usize,
    total: i64,
) -> impl Strategy<Value = (Vec<Width>, Constraints)> {
    let coefficient = prop_oneof![4 => Just(1i64), 3 => Just(-1), 1 => Just(2), 1 => Just(3)];
    let row = proptest::collection::btree_map(0..operand_fields, coefficient, 1..=3);
    let constraint =
        (row, -total..=total).prop_map(|(row, total)| (row.into_iter().collect(), total));
    (
        proptest::collection::vec(width(), operand_fields as usize),
        proptest::collection::vec(constraint, 1..=constraints),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Changes are small, so that whatever can be solved can be solved with values that are tried.
    /// Bytes are at the end of their range: they fit upwards by 3.
    #[test]
    fn out_of_range_operands_are_as_few_as_any_values_allow((widths, changes) in systems(4, 4, 5)) {
        let value = |width: Width| if width == I8 { 124 } else { 0 };
        let constants: Vec<(Width, i64)> = widths.iter().map(|&w| (w, value(w))).collect();
        let present = |terms: &[(u32, i64)]| -> i64 {
            terms.iter().map(|t| t.1 * constants[t.0 as usize].1).sum()
        };
        let constraints: Constraints = changes.into_iter().map(|(t, by)| (t.clone(), present(&t) + by)).collect();
        let found = solved(&constants, &constraints);
        // Where trying finds nothing there may still be a solution further away; `solved` has
        // checked it.
        if let Some(least) = fewest_by_trying(&constants, &constraints, 6) {
            let found = found.expect("there is a solution");
            prop_assert!(found.fewest);
            prop_assert!(found.out_of_range.len() <= least, "{} for {least}", found.out_of_range.len());
        }
    }

    /// A system that is known to have a solution with certain operands out of range.
    #[test]
    fn planted_solutions_are_met(
        (widths, constraints) in systems(12, 14, 0),
        values in proptest::collection::vec(-100i64..100, 12),
        planted in proptest::collection::vec(prop_oneof![6 => Just(0i64), 1 => -300i64..300], 12),
    ) {
        let constants: Vec<(Width, i64)> = widths
            .iter()
            .zip(&values)
            .map(|(&width, &value)| (width, if width == Width::None { 0 } else { value }))
            .collect();
        let new: Vec<i64> = constants.iter().zip(&planted).map(|(c, p)| c.1 + p).collect();
        let constraints: Constraints = constraints
            .into_iter()
            .map(|(terms, _)| {
                let total = terms.iter().map(|t| t.1 * new[t.0 as usize]).sum();
                (terms, total)
            })
            .collect();
        let least = new.iter().zip(&widths).filter(|(v, w)| !w.fits(**v)).count();
        let found = solved(&constants, &constraints).expect("it was made to have a solution");
        prop_assert!(!found.fewest || found.out_of_range.len() <= least);
    }
}
