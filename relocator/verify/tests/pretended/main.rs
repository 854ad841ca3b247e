//! Pretended kernels: pages that tests fill by hand, so that the right answer is known; and what
//! needs a time namespace of the running one.
//!
//! The standard harness cannot ignore a test when it runs. Here a test that this machine does not
//! allow is shown as ignored, with the reason, and fails if `RELOCATOR_REQUIRE_ALL` is set.

#[cfg(target_arch = "x86_64")]
mod emulated;
#[cfg(target_arch = "x86_64")]
mod home;
#[cfg(target_arch = "x86_64")]
mod pretend_kernel;
#[cfg(target_arch = "x86_64")]
mod tables;
mod time_namespace;

use libtest_mimic::{Arguments, Trial};

/// Tests of modules by name. The compiler warns of one that is not on the list: nothing calls it
/// then.
macro_rules! trials {
    ($($module:ident: $($test:ident),+;)+) => {
        vec![$($({
            let name = concat!(stringify!($module), "::", stringify!($test));
            Trial::test(name, || {
                $module::$test();
                Ok(())
            })
        }),+),+]
    };
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![time_namespace::trial()];
    #[cfg(target_arch = "x86_64")]
    trials.extend(trials! {
        emulated: every_kernel_reads_every_other_kernels_clocks, positions_of_a_time_namespace_are_kept, another_boot_is_right_in_itself_and_shares_no_value, an_update_is_seen_after_a_refresh, an_update_in_progress_is_waited_for, readers_wait_for_an_update_that_halts, concurrent_updates_are_never_seen_half_done, the_clock_pages_of_hypervisors_read_as_the_counter_some_cycles_ahead, the_random_state_is_found_in_and_out_of_a_time_namespace, a_running_kernel_without_the_state_is_not_seeded, what_cannot_be_emulated_is_refused_by_name, a_unit_is_a_kernels_mappings_at_its_own_distances, a_wrong_field_shows;
        home: clocks_follow_the_cycle_counter, a_counter_behind_the_last_update_does_not_turn_time_back, products_beyond_64_bits_are_right, a_time_namespace_adds_its_offsets, wall_clock_time_zone_and_resolution_are_read, the_kernel_is_asked_for_what_vvar_does_not_have, readers_wait_for_the_writer, a_leap_second_is_smeared_where_the_kernel_does, the_processor_is_one_that_exists;
        tables: readelf_shows_everything_without_a_warning, relocations_have_the_types_of_their_style, images_are_made_like_those_of_a_kernel, operands_hold_the_values_of_the_home_layout, the_operand_before_an_immediate_has_its_own_addend, only_the_functions_that_tell_nanoseconds_need_the_smear, getcpu_needs_nothing, defaults_are_those_that_the_generation_states, a_table_and_its_image_know_each_other;
    });
    libtest_mimic::run(&arguments, trials).exit();
}
