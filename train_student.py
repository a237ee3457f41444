#!/usr/bin/env python3
"""temporary"""

import sys

from kdcache.cli import exit_code, parse_options, say
from kdcache.config import TrainOptions
from kdcache.engine import TrainingCallbacks, load_training_data, train_student
from kdcache.runs import resumed_options
from kdcache.runtime import distributed


class Said(TrainingCallbacks):
    def on_message(self, text):
        say(text)


def main(argv=None):
    options = parse_options(TrainOptions, argv, __doc__)
    if options.resume is not None:
        options = resumed_options(options.resume)
    processes = distributed.init()
    data = processes.main_process_first(lambda: load_training_data(options))
    print(train_student(options, data, Said(), processes))
    distributed.destroy()


if __name__ == "__main__":
    sys.exit(exit_code(main))
