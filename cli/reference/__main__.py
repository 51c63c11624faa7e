from operations.reference import write

write()
