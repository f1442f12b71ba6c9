"""What a user of Redeem imports and types: the wire (`contract`), a client (`client`), the command line (`cli`)."""
