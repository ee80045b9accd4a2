"""The head: decides, by rules, what the mount does with a file when it is opened.

    facts     what is known of the file, its readers and the host, by the names that rules use
    host      memory, CPU, disks and GPUs, looked at now and then
    filetype  what a file holds, by its name and first bytes
    recognition   which framework a file and a process are of
    plugged   the plugins that there are, with their rules built in
    meters    what is counted for facts: opens of a file, the source's rate and latency
    head      asks the rules, remembers what was decided, tells the rooms that act
    history   the latest decisions and what each rule did so far
    notify    events, commands and webhooks that rules ask for
    rulesfiles, reload   which files hold the rules; read again when they change
    running   all of this in a daemon, and its tasks

The mount asks ``Head.opening`` about each file that it opens itself; what C answers alone (a file that is
whole in the cache) is not asked about again.
"""
