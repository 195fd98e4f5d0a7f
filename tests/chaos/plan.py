"""The plan of the chaos tests: which fault is held by which test. `test_plan.py` holds that none is missing."""

from __future__ import annotations

#: Number of the fault: (the fault in words, module, names of its tests).
PLAN: dict[int, tuple[str, str, tuple[str, ...]]] = {}


def _rows(module: str, rows: dict[int, tuple[str, ...]]) -> None:
    PLAN.update({number: (fault, module, tests) for number, (fault, *tests) in rows.items()})


_rows(
    "test_job_end",
    {
        1: ("the job returns a value", "test_a_job_that_returns_a_value_has_it_and_services_stop_in_reverse"),
        2: ("the job raises", "test_a_job_that_raises_keeps_its_exception_whatever_fails_in_the_cleanup"),
        3: ("the job calls sys.exit", "test_a_job_that_exits_has_its_own_exit_code"),
        4: ("the job's program fails or crashes", "test_the_exit_status_of_a_program_that_was_the_job_is_kept"),
        5: ("the job times out", "test_a_time_out_names_the_job_and_cleans_its_services"),
        6: ("Ctrl-C during the job", "test_ctrl_c_ends_the_job_by_that_signal_and_reaches_no_service"),
        7: ("Ctrl-C during the start", "test_ctrl_c_while_the_second_of_three_starts_leaves_the_third_unborn"),
        8: (
            "Ctrl-C during the stop, once and twice",
            "test_ctrl_c_during_the_cleanup_lets_it_finish",
            "test_a_second_ctrl_c_during_the_cleanup_skips_the_grace_periods",
        ),
        9: (
            "the job ends before a service is ready",
            "test_a_job_that_ends_before_its_service_is_ready_ends_the_start",
        ),
    },
)
_rows(
    "test_start_faults",
    {
        10: (
            "the program cannot be launched",
            "test_a_program_that_cannot_be_launched_is_named_and_what_had_started_is_rolled_back",
        ),
        11: (
            "the program dies during its readiness",
            "test_a_program_that_dies_during_its_readiness_fails_at_once_with_code_and_last_lines",
        ),
        12: ("the program is never ready", "test_a_program_that_is_never_ready_is_ended_and_its_probe_named"),
        13: ("the port is in use", "test_a_port_that_is_in_use_is_named_with_its_owner"),
        14: (
            "another process answers the probe",
            "test_a_probe_that_a_stranger_answers_is_not_accepted",
            "test_a_port_that_is_lost_once_is_chosen_anew",
            "test_a_fixed_port_that_a_stranger_answers_is_told_with_its_pid",
        ),
        15: ("the probe hangs", "test_a_probe_that_hangs_has_a_time_out_of_its_own"),
        16: (
            "dependencies and names that cannot be",
            "test_dependencies_that_cannot_be_are_refused_before_anything_starts",
            "test_a_name_that_is_taken_is_refused_before_anything_starts",
        ),
        17: (
            "three of ten starts fail",
            "test_three_of_ten_that_fail_to_start_come_together_and_the_others_stop",
        ),
        18: (
            "a hook raises what is no Exception",
            "test_a_service_that_raises_what_is_no_exception_has_just_failed",
        ),
        19: (
            "no process or thread can be made",
            "test_a_failed_fork_is_a_failed_start",
            "test_a_machine_without_room_for_another_process_or_thread_fails_the_start_alone",
        ),
        20: ("no descriptor is free", "test_a_process_without_free_descriptors_fails_the_start_alone"),
        21: (
            "the disk is full or read-only",
            "test_a_full_disk_hinders_no_stop",
            "test_a_disk_that_is_full_from_the_start_is_a_failed_start",
            "test_a_folder_that_cannot_be_removed_hinders_no_stop_and_is_told",
        ),
    },
)
_rows(
    "test_stop_faults",
    {
        22: (
            "the program ignores the polite signal",
            "test_a_program_that_ignores_the_polite_signal_is_killed_after_its_grace",
        ),
        23: ("a group of five ignores it", "test_a_group_of_five_that_ignore_the_polite_signal_is_killed_whole"),
        24: ("stop() raises", "test_a_stop_that_raises_stops_nobody_elses_and_is_named"),
        25: (
            "stop() hangs in Python",
            "test_a_stop_that_hangs_is_abandoned_with_its_stack_and_the_rest_goes_on",
            "test_what_job_code_leaves_running_is_asked_and_named",
        ),
        26: ("stop() hangs in C", "test_a_stop_that_hangs_is_abandoned_with_its_stack_and_the_rest_goes_on"),
        27: (
            "stop() holds the interpreter",
            "test_a_stop_that_holds_the_interpreter_delays_the_others_and_is_told",
        ),
        28: ("stop() hangs at the exit", "test_a_stop_that_never_returns_does_not_hold_the_exit"),
        29: ("stop() stops", "test_a_stop_within_a_stop_changes_nothing"),
        30: ("ten stop at once", "test_ten_that_stop_at_once_stop_once_and_see_the_same"),
        31: (
            "stop races with start",
            "test_nothing_runs_when_a_stop_that_raced_with_a_start_has_returned",
        ),
        32: (
            "stop in the pause before a restart",
            "test_a_stop_during_the_pause_before_a_restart_is_the_last_word",
        ),
        33: ("run() raises when it is stopped", "test_a_run_that_raises_because_it_was_stopped_is_a_stopped_one"),
        34: (
            "the program is stopped by SIGSTOP",
            "test_a_stopped_program_ends_within_its_grace_where_it_obeys_and_is_killed_where_not",
        ),
        35: (
            "the program has ended by itself",
            "test_a_program_that_ended_by_itself_is_told_with_its_code_and_leaves_no_zombie",
        ),
        36: ("a hundred slow stops", "test_a_hundred_that_take_a_second_each_stop_side_by_side"),
        37: (
            "dependants stop first",
            "test_each_stops_only_when_all_that_needs_it_has_ended",
            "test_programs_stop_only_when_all_that_needs_them_has_ended",
        ),
        38: (
            "the whole cleanup has less time than its parts",
            "test_a_cleanup_that_is_longer_than_the_whole_may_be_is_cut_short_and_told",
        ),
    },
)
_rows(
    "test_process_trees",
    {
        39: (
            "a child in a session of its own",
            "test_a_child_that_gets_away_is_dead_when_the_job_is_over",
            "test_children_of_a_program_that_ended_by_itself_are_dead_too",
        ),
        40: ("a daemon", "test_a_child_that_gets_away_is_dead_when_the_job_is_over"),
        41: (
            "a daemon that sheds every sign",
            "test_a_child_that_sheds_every_sign_is_dead_where_its_program_is_contained",
            "test_a_child_that_sheds_every_sign_lives_on_where_nothing_contains_it",
        ),
        42: ("a storm of forks", "test_a_storm_of_forks_is_outlasted"),
        43: (
            "a grandchild holds the log open",
            "test_a_grandchild_that_holds_the_log_open_keeps_nobody_waiting",
        ),
        44: (
            "a flood of output",
            "test_a_flood_of_output_that_nobody_reads_holds_nobody_and_stays_bounded",
            "test_a_program_that_writes_without_end_is_stopped_in_the_middle",
        ),
        45: (
            "children made with multiprocessing",
            "test_a_child_that_a_service_in_this_process_leaves_is_named",
            "test_a_child_that_a_service_in_a_process_leaves_is_dead",
        ),
    },
)
_rows(
    "test_owner_death",
    {
        46: (
            "SIGKILL in each phase",
            "test_nothing_is_left_of_an_owner_that_was_killed",
            "test_an_owner_that_is_killed_while_its_first_program_and_its_reaper_come_up_leaves_nothing",
            "test_an_owner_that_was_killed_leaves_programs_their_grace_and_their_order",
        ),
        47: (
            "SIGTERM, SIGHUP, SIGQUIT",
            "test_a_signal_to_end_stops_services_and_the_status_is_the_signals",
            "test_a_quit_ends_the_owner_on_the_spot_and_nothing_is_left",
            "test_an_owner_that_is_asked_and_then_killed_leaves_nothing",
        ),
        48: (
            "an exit past Python, an abort, a crash",
            "test_nothing_is_left_of_an_owner_that_crashed_and_its_status_is_its_own",
        ),
        49: (
            "a child keeps everything of the dead owner open",
            "test_a_child_that_keeps_everything_open_does_not_stand_for_its_dead_owner",
        ),
        50: ("the owner is suspended", "test_an_owner_that_is_suspended_is_not_dead"),
        51: ("the owner becomes another program", "test_an_owner_that_became_another_program_is_no_owner_any_more"),
        52: (
            "the owner forks, and the child ends",
            "test_forked_children_that_end_take_nothing_of_their_parents_along",
        ),
        53: ("the clock jumps", "test_a_clock_that_jumps_ends_and_starts_nothing"),
    },
)
_rows(
    "test_kernels",
    {
        54: (
            "the kernel shuts down or restarts",
            "test_nothing_is_left_of_a_kernel_that_was_shut_down_or_restarted",
        ),
        55: ("the kernel is killed", "test_a_kernel_that_was_killed_leaves_nothing_and_the_next_one_says_so"),
        56: ("the interrupt button during a job", "test_an_interrupt_ends_the_job_once_and_cleans_it"),
        57: (
            "the interrupt button while services idle",
            "test_an_interrupt_of_an_idle_kernel_reaches_no_service",
        ),
        58: (
            "services that need longer than the kernel has",
            "test_services_that_outlast_the_shutdown_get_their_grace_and_their_order",
        ),
        59: ("the Jupyter server is killed", "test_nothing_is_left_when_the_server_of_the_kernel_was_killed"),
        60: ("the cell runs again", "test_a_cell_that_runs_again_ends_its_earlier_run_first"),
    },
)
_rows(
    "test_reaper_faults",
    {
        62: (
            "the reaper is killed",
            "test_a_reaper_that_was_killed_is_replaced_and_knows_all",
            "test_an_owner_that_dies_right_after_its_reaper_leaves_nothing_to_the_next",
        ),
        63: (
            "the reaper is killed again and again",
            "test_a_reaper_that_dies_again_and_again_is_told_of_and_the_owner_goes_on",
        ),
        64: ("the reaper is stuck", "test_a_reaper_that_is_stuck_is_replaced_when_it_is_needed"),
        65: (
            "owner and reaper are killed together",
            "test_a_session_that_died_with_its_reaper_is_cleaned_by_the_next_one",
            "test_a_reaper_that_is_killed_while_it_finishes_for_an_owner_leaves_the_rest_to_the_next",
        ),
        66: ("no reaper can be started", "test_a_program_is_not_launched_where_no_reaper_can_be_started"),
        67: ("garbage for the reaper", "test_garbage_is_refused_and_hurts_nobody"),
        68: (
            "the way to the reaper is full",
            "test_a_reaper_that_is_not_listened_to_takes_ten_thousand_requests_and_answers_all",
            "test_many_services_start_while_the_reaper_is_stuck",
        ),
        69: (
            "a journal that cannot be believed",
            "test_a_journal_that_cannot_be_believed_is_set_aside_and_nobody_is_signalled",
        ),
        70: ("a pid is somebody else's by now", "test_a_lease_with_a_pid_of_somebody_else_hurts_nobody"),
        71: ("a pid that can be no service", "test_a_pid_that_can_be_no_service_is_refused"),
        72: (
            "the machine was started anew",
            "test_a_journal_of_before_the_machine_was_started_anew_ends_nobody",
        ),
        73: ("two sessions side by side", "test_a_session_that_lives_is_never_touched_by_another"),
        74: (
            "a folder that is not ours",
            "test_a_folder_that_is_not_the_instances_own_is_refused",
            "test_a_folder_that_becomes_a_link_is_removed_as_a_link",
            "test_a_journal_with_a_folder_of_somebody_else_removes_only_its_own",
        ),
    },
)
