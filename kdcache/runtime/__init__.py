"""What the machine offers: devices, precision, memory, the processes of a job, and files.

Nothing here knows of images or teachers.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.runtime import distributed
    from kdcache.runtime.devices import (
        CoreWatch,
        free_memory,
        gpu_count,
        pick_device,
        share_threads,
        single_thread,
        synchronizer,
        to_cpu_async,
        to_device,
    )
    from kdcache.runtime.distributed import (
        SINGLE_PROCESS,
        Processes,
    )
    from kdcache.runtime.file_locks import (
        open_locked,
        try_lock,
    )
    from kdcache.runtime.files import (
        make_folder,
        os_errors_as_data_errors,
        reserve,
        sync_data,
        sync_folder,
        write_all,
        write_atomically,
        write_json,
        write_text,
    )
    from kdcache.runtime.host_memory import (
        fits_in_memory,
        give_back_freed_memory,
        keep_freed_memory,
        peak_memory,
        processes_that_fit,
    )
    from kdcache.runtime.json_fields import (
        JsonObject,
        check_digest,
        json_digest,
        with_digest,
    )
    from kdcache.runtime.precision import (
        MODEL_ERRORS,
        autocast,
        compiled,
        cpu_has_bf16,
        emulates,
        forward_flops,
        inference_batch_size,
        pick_precision,
        record_output_sizes,
        training_memory,
    )
    from kdcache.runtime.tensor_files import (
        load_tensors,
        save_tensors,
    )
    from kdcache.runtime.torchrun import (
        is_main_process,
        tell_torchrun,
    )

__getattr__ = lazy_exports(__name__)
