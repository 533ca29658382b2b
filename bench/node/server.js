// The server that people write instead: ws, ioredis with auto-pipelining, one HSET and one ack a heartbeat.
// Usage: NODE_PATH=… node server.js <port> <unix socket of the store>
'use strict';
const { WebSocketServer } = require('ws');
const Redis = require('ioredis');

const [port, path] = process.argv.slice(2);
const redis = new Redis({ path, enableAutoPipelining: true });
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port), perMessageDeflate: false, backlog: 2048 });

server.on('connection', (socket, request) => {
  const query = new URL(request.url, 'http://localhost').searchParams;
  const key = `progress:${query.get('user')}`;
  const session = query.get('session');
  socket.on('message', async (data) => {
    const beat = JSON.parse(data);
    const record = JSON.stringify({ position: beat.position, played: beat.played, seq: beat.seq });
    await redis.hset(key, beat.videoId, record);
    socket.send(JSON.stringify({ type: 'ack', session, seq: beat.seq }));
  });
});
process.on('SIGTERM', () => process.exit(0));
