from cli.reference import write

write()
