;; A message handler to be spoilt: the tests replace the lines marked with `;;@`. As it stands, it acknowledges every
;; message of a batch and keeps no state.
(component
  (import "parti:plugin/types@0.1.0" (instance $types
    (type $partition (record (field "id" string) (field "keys" (list string)) (field "weight" u64)))
    (export "partition" (type (eq $partition)))
    (type $header' (record (field "name" string) (field "value" (list u8))))
    (export "header" (type $header (eq $header')))
    (type $message (record
      (field "subject" string) (field "sequence" u64) (field "timestamp-ns" u64) (field "attempt" u32)
      (field "headers" (list $header)) (field "payload" (list u8))))
    (export "message" (type (eq $message)))
    (type $completed' (variant (case "ack") (case "reject" string)))
    (export "completed" (type $completed (eq $completed')))
    (type $outcome (record (field "done" (list $completed)) (field "retry" (option (option u64)))))
    (export "outcome" (type (eq $outcome)))
    (type $open-reason (variant (case "assigned") (case "recovered") (case "swapped") (case "other" string)))
    (export "open-reason" (type (eq $open-reason)))
    (type $close-reason (variant (case "revoked") (case "swapped") (case "lost") (case "shutdown") (case "other" string)))
    (export "close-reason" (type (eq $close-reason)))
    (type $snapshot (record (field "format" string) (field "data" (list u8))))
    (export "snapshot" (type (eq $snapshot)))))
  (alias export $types "header" (type $header))
  (alias export $types "partition" (type $partition))
  (alias export $types "message" (type $message))
  (alias export $types "completed" (type $completed))
  (alias export $types "outcome" (type $outcome))
  (alias export $types "open-reason" (type $open-reason))
  (alias export $types "close-reason" (type $close-reason))
  (alias export $types "snapshot" (type $snapshot))

  (import "parti:plugin/log@0.1.0" (instance $log
    (type $level' (enum "trace" "debug" "info" "warn" "error"))
    (export "level" (type $level (eq $level')))
    (export "write" (func (param "level" $level) (param "message" string)))))
  (import "parti:plugin/publish@0.1.0" (instance $publish
    (alias outer 1 $header (type $header'))
    (export "header" (type $header (eq $header')))
    (type $refusal' (variant (case "invalid" string) (case "limit" string) (case "other" string)))
    (export "refusal" (type $refusal (eq $refusal')))
    (export "send" (func
      (param "cause" u64) (param "subject" string) (param "headers" (list $header)) (param "payload" (list u8))
      (result (result (error $refusal)))))))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $pollable'))
    (export "pollable" (type $pollable (eq $pollable')))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))

  ;; Memory and allocation stand in a module of their own, because lowering imports needs them first.
  (core module $base
    (memory (export "memory") 1) ;;@memory
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (loop $more
        (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))) (then
          (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
          (br $more))))
      (local.get $at))
    ;; After every call nothing is kept.
    (func (export "reset") (param i32) (global.set $top (i32.const 4096))))
  (core instance $base (instantiate $base))
  (core func $write (canon lower (func $log "write") (memory (core memory $base "memory")) (realloc (core func $base "realloc"))))
  (core func $send (canon lower (func $publish "send") (memory (core memory $base "memory")) (realloc (core func $base "realloc"))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (type $partition-handler (resource (rep i32)))
  (core func $new (canon resource.new $partition-handler))

  (core module $main
    (import "base" "memory" (memory 1))
    (import "host" "new" (func $new (param i32) (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32)))
    (import "host" "send" (func $send (param i64 i32 i32 i32 i32 i32 i32 i32)))
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (data (i32.const 128) "out.x")
    (data (i32.const 144) "no")
    (global $i (mut i32) (i32.const 0))
    ;; Results: `open` and `snapshot` at 256, `send` at 640, `handle` at 320, its list of zeroes (acknowledgements) at 1024.
    (func (export "open") (param i32 i32 i32 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.store (i32.const 260) (call $new (i32.const 1)))
      ;;@open
      (i32.const 256))
    (func (export "handle") (param $self i32) (param $batch i32) (param $length i32) (result i32)
      (i32.store (i32.const 320) (i32.const 1024))
      (i32.store (i32.const 324) (local.get $length))
      ;;@handle
      (i32.const 320))
    (func (export "snapshot") (param i32) (result i32)
      (i32.store8 (i32.const 256) (i32.const 0))
      (i32.store8 (i32.const 260) (i32.const 0))
      ;;@snapshot
      (i32.const 256))
    (func (export "close") (param i32 i32 i32 i32)
      ;;@close
      )
    ;;@module
  )
  (core instance $main (instantiate $main
    (with "base" (instance $base))
    (with "host" (instance
      (export "new" (func $new)) (export "write" (func $write)) (export "send" (func $send))
      (export "subscribe" (func $subscribe)) (export "block" (func $block))))))

  (func $open (param "p" $partition) (param "why" $open-reason) (param "from" (option $snapshot))
    (result (result (own $partition-handler) (error string)))
    (canon lift (core func $main "open") (memory (core memory $base "memory")) (realloc (core func $base "realloc")) (post-return (core func $base "reset"))))
  (func $handle (param "self" (borrow $partition-handler)) (param "batch" (list $message)) (result $outcome)
    (canon lift (core func $main "handle") (memory (core memory $base "memory")) (realloc (core func $base "realloc")) (post-return (core func $base "reset"))))
  (func $snapshot (param "self" (borrow $partition-handler)) (result (result (option $snapshot) (error string)))
    (canon lift (core func $main "snapshot") (memory (core memory $base "memory")) (realloc (core func $base "realloc")) (post-return (core func $base "reset"))))
  (func $close (param "self" (borrow $partition-handler)) (param "why" $close-reason)
    (canon lift (core func $main "close") (memory (core memory $base "memory")) (realloc (core func $base "realloc"))))

  ;; Only a component can export a resource together with functions as its methods.
  (component $methods
    (import "handler" (type $ph (sub resource)))
    (type $partition' (record (field "id" string) (field "keys" (list string)) (field "weight" u64)))
    (import "partition" (type $partition (eq $partition')))
    (type $header' (record (field "name" string) (field "value" (list u8))))
    (import "header" (type $header (eq $header')))
    (type $message' (record
      (field "subject" string) (field "sequence" u64) (field "timestamp-ns" u64) (field "attempt" u32)
      (field "headers" (list $header)) (field "payload" (list u8))))
    (import "message" (type $message (eq $message')))
    (type $completed' (variant (case "ack") (case "reject" string)))
    (import "completed" (type $completed (eq $completed')))
    (type $outcome' (record (field "done" (list $completed)) (field "retry" (option (option u64)))))
    (import "outcome" (type $outcome (eq $outcome')))
    (type $open-reason' (variant (case "assigned") (case "recovered") (case "swapped") (case "other" string)))
    (import "open-reason" (type $open-reason (eq $open-reason')))
    (type $close-reason' (variant (case "revoked") (case "swapped") (case "lost") (case "shutdown") (case "other" string)))
    (import "close-reason" (type $close-reason (eq $close-reason')))
    (type $snapshot' (record (field "format" string) (field "data" (list u8))))
    (import "snapshot-record" (type $snapshot (eq $snapshot')))
    (import "open" (func $open (param "p" $partition) (param "why" $open-reason) (param "from" (option $snapshot))
      (result (result (own $ph) (error string)))))
    (import "handle" (func $handle (param "self" (borrow $ph)) (param "batch" (list $message)) (result $outcome)))
    (import "snapshot" (func $snapshot-func (param "self" (borrow $ph)) (result (result (option $snapshot) (error string)))))
    (import "close" (func $close (param "self" (borrow $ph)) (param "why" $close-reason)))
    (export $handler "partition-handler" (type $ph))
    (export "[static]partition-handler.open" (func $open)
      (func (param "p" $partition) (param "why" $open-reason) (param "from" (option $snapshot))
        (result (result (own $handler) (error string)))))
    (export "[method]partition-handler.handle" (func $handle)
      (func (param "self" (borrow $handler)) (param "batch" (list $message)) (result $outcome)))
    (export "[method]partition-handler.snapshot" (func $snapshot-func)
      (func (param "self" (borrow $handler)) (result (result (option $snapshot) (error string)))))
    (export "[method]partition-handler.close" (func $close)
      (func (param "self" (borrow $handler)) (param "why" $close-reason))))
  (instance $handler (instantiate $methods
    (with "handler" (type $partition-handler))
    (with "partition" (type $partition))
    (with "header" (type $header))
    (with "message" (type $message))
    (with "completed" (type $completed))
    (with "outcome" (type $outcome))
    (with "open-reason" (type $open-reason))
    (with "close-reason" (type $close-reason))
    (with "snapshot-record" (type $snapshot))
    (with "open" (func $open))
    (with "handle" (func $handle))
    (with "snapshot" (func $snapshot))
    (with "close" (func $close))))
  (export "parti:plugin/handler@0.1.0" (instance $handler))
)
